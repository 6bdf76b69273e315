"""The user's data of a recipe: what makes numbers of them, their index, and the corpus itself."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from flows.recipe import LoadedRecipe
from storage.corpus import Corpus, CorpusIndex
from storage.errors import DataError, SoftlabelError
from storage.file_corpus import FileDecoder
from storage.file_ingest import open_file_corpus
from storage.files import Folder
from storage.ingest import corpus_index, open_corpus
from storage.preparation import Preparation
from storage.viewed_corpus import with_views
from tasks.inputs import makers
from tasks.inputs.preparations import TextPreparation
from tasks.inputs.tokenizers import TextTokenizer


class UserData:
    """The data that a recipe names. Nothing is read before it is asked for."""

    def __init__(self, store: Folder, loaded: LoadedRecipe) -> None:
        self._store = store
        self._options = loaded.recipe.data
        self._teacher = loaded.recipe.teacher
        self._folder = loaded.folder
        self._positions_per_shard = loaded.recipe.labels.positions_per_shard
        self._corpus: Corpus | None = None
        self._checked: Corpus | None = None

    @cached_property
    def index(self) -> CorpusIndex:
        """What the data hold.

        Raises:
            DataError: they are not as the recipe says.
        """
        index = corpus_index(
            self._store,
            self._options,
            self._folder,
            self._positions_per_shard,
            self._opened,
            self._preparation,
            () if self._decoder is None else self._decoder.suffixes,
        )
        self._checked = self._corpus  # the index is of what was read for it, if anything was
        return index

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The names of the classes, by the recipe or by the data."""
        return self._options.class_names or self.index.class_names

    @property
    def num_classes(self) -> int | None:
        """How many classes there are, by the recipe or by the names that the data give."""
        found = self.index.class_names
        return self._options.num_classes or (len(found) if found else None)

    @property
    def identity(self) -> dict[str, Any]:
        """What decides labels beside the recipe's own words: a tokenizer, the order of classes."""
        found: dict[str, Any] = {}
        if self._preparation is not None:
            found["preparation"] = self._preparation.identity()
        if self._options.class_names is None and self.index.class_names is not None:
            found["classes"] = self.index.class_names
        return found

    def tokenizer_of(self, made: Mapping[str, Any] | None = None) -> TextTokenizer | None:
        """What the texts are tokenized with, where they are, and where it still is there.

        Args:
            made: what a label set was made from; None where that is what lies here.
        """
        try:
            preparation = self._preparation
        except SoftlabelError:
            return None
        if not isinstance(preparation, TextPreparation):
            return None
        known = preparation.identity() if made is None else made.get("data", {}).get("preparation")
        return preparation.tokenizer if known == preparation.identity() else None

    def open(self) -> Corpus:
        """The samples, to be read; to be closed.

        Raises:
            DataError: they are not as the recipe says, or not those of the index.
        """
        index = self.index
        corpus = self._opened()
        if corpus is not self._checked:
            if corpus.shards(self._positions_per_shard) != index.shards:
                raise DataError(
                    "data.source: the data changed since this run looked at them; run it again"
                )
            self._checked = corpus
        return corpus

    def _opened(self) -> Corpus:
        """The corpus, which is not read again before it was closed."""
        if self._corpus is None or self._corpus.is_closed:
            if self._decoder is not None:
                corpus = open_file_corpus(self._store, self._options, self._folder, self._decoder)
                self._corpus = with_views(corpus, self._options)
            else:
                self._corpus = open_corpus(self._options, self._folder, self._preparation)
        return self._corpus

    @cached_property
    def _decoder(self) -> FileDecoder | None:
        return makers.file_decoder(self._options)

    @cached_property
    def _preparation(self) -> Preparation | None:
        return makers.preparation(self._store, self._options, self._folder, self._teacher)
