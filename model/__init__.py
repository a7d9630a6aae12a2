"""Score-based generation of symmetric crystals (Sultanov et al., J. Chem. Inf. Model. 2023)."""
