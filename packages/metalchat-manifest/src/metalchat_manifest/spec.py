"""Which model: where it comes from and in which form, the content of a `[model]` table."""

from dataclasses import dataclass

from metalchat_manifest.repository import check_word, identifier, legacy_identifier, normalise_repository


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """The four words that make the identifier of a model.

    `repository` stays as written; `id` is made of its normalised form, so two spellings can share an id.
    Raises InvalidRepository or InvalidSpec when it is made.
    """

    repository: str
    architecture: str
    partitioning: str
    variant: str

    def __post_init__(self) -> None:
        normalise_repository(self.repository)
        check_word("architecture", self.architecture)
        check_word("partitioning", self.partitioning)
        check_word("variant", self.variant)

    @property
    def id(self) -> str:
        """40 lower-case hexadecimal digits."""
        return identifier(
            self.repository, variant=self.variant, architecture=self.architecture, partitioning=self.partitioning
        )

    @property
    def ids(self) -> tuple[str, ...]:
        """Every id that names this model, the present form first: a `file://` repository has an older one too."""
        if normalise_repository(self.repository).startswith("file:"):
            return self.id, legacy_identifier(self.repository)
        return (self.id,)
