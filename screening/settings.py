"""Settings that are validated when they are made, with one sentence for each mistake."""

from __future__ import annotations

from typing import Any, Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from screening.errors import UserError, shown


class Settings(BaseModel):
    """Frozen, typed without conversions, unknown keys refused.

    The description of a field says what it may hold, as it is quoted in messages.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @classmethod
    def from_mapping(cls, values: dict[str, Any], source: str = "settings") -> Self:
        """Validate values that were read from somewhere.

        Args:
            values: keys and values, as they stand in a file.
            source: what to call their origin in a message, for example the path.

        Raises:
            UserError: for the first mistake, in one sentence.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise UserError(f"{source}: {_sentence(error, cls)}") from None


def refuse_duplicates(values: Any, field: str) -> None:
    """Raise ``ValueError`` if a value is there twice."""
    seen = set()
    for value in values:
        if value in seen:
            raise ValueError(f"{field} holds {shown(value)} twice; each may be given once")
        seen.add(value)


def _sentence(error: ValidationError, model: type[BaseModel]) -> str:
    """Turn the first breach of a rule into a sentence: field, value, what is allowed."""
    first = error.errors(include_url=False)[0]
    is_foreign = first["type"] == "extra_forbidden"
    parent, location, allowed = _follow(model, first["loc"], is_foreign=is_foreign)
    name = ".".join(part for part in location if isinstance(part, str))
    if is_foreign:
        where = f" in {'.'.join(map(str, location[:-1]))}" if len(location) > 1 else ""
        known = ", ".join(parent.model_fields)
        return f"there is no key {shown(location[-1])}{where}; the keys are {known}"
    if first["type"] == "missing":
        return f"{name} is missing; allowed: {allowed}"
    if first["type"] == "value_error" and str(first["ctx"]["error"]):
        return str(first["ctx"]["error"])
    verb = "is" if isinstance(location[-1], str) else "holds"
    return f"{name} {verb} {shown(first['input'])}; allowed: {allowed}"


def _follow(
    model: type[BaseModel], location: tuple[int | str, ...], *, is_foreign: bool
) -> tuple[type[BaseModel], list[int | str], str]:
    """Follow pydantic's location of an error.

    Args:
        model: where the location starts.
        location: keys, positions in lists, and names of the members of unions.
        is_foreign: whether the last part is a key that does not exist.

    Returns:
        The innermost model, the location without the names of a union's members, and the
        description of the field.
    """
    cleaned: list[int | str] = []
    allowed = ""
    members: tuple[type[BaseModel], ...] = (model,)
    for depth, part in enumerate(location, start=1):
        owner = next((m for m in members if part in m.model_fields), None)
        is_key = owner is not None or (is_foreign and depth == len(location))
        if isinstance(part, str) and not is_key:
            continue  # the name of a union's member
        cleaned.append(part)
        if owner is not None:
            field = owner.model_fields[str(part)]
            model, allowed = owner, field.description or ""
            members = _models_in(field.annotation)
        elif members:
            model = members[0]
    return model, cleaned, allowed


def _models_in(annotation: Any) -> tuple[type[BaseModel], ...]:
    """Return the settings classes that an annotation mentions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return (annotation,)
    return tuple(model for part in get_args(annotation) for model in _models_in(part))
