"""How good the engine is, measured on crystals that are known: ``screening evaluate``."""
