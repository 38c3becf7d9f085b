"""The contract of datasets, as a class of tests."""

from __future__ import annotations

import itertools
from typing import Any, ClassVar

from gpt2demo.interfaces import Dataset
from gpt2demo.testing.profiles import by_profile
from gpt2demo.testing.samplers import check_invalid

DOCUMENTS = by_profile(1000, 100)


class DatasetContract:
    """Tests of the contract of `gpt2demo.interfaces.Dataset`. Subclass it and set `dataset`.

    Attributes:
        dataset: the dataset class to test.
        options: options for the tests, such as a small size.
    """

    dataset: ClassVar[type[Dataset]]
    options: ClassVar[dict[str, Any]] = {}

    def documents(self) -> list[Any]:
        """Return the first documents of a new dataset."""
        return list(itertools.islice(self.dataset(**self.options).documents(), DOCUMENTS))

    def test_options_have_description_and_default(self) -> None:
        """The command line and the web page create their controls from them."""
        assert issubclass(self.dataset, Dataset), f"{self.dataset.__name__} is not a subclass of gpt2demo.interfaces.Dataset"
        self.dataset()
        for name, field in self.dataset.model_fields.items():
            assert field.description, f"{name} has no description"

    def test_summary_is_one_line(self) -> None:
        """Lists show it."""
        assert self.dataset.summary, "summary is empty"
        assert "\n" not in self.dataset.summary, "summary has more than one line"

    def test_invalid_options_raise_an_error_that_names_them(self) -> None:
        """Unknown names, and text for numbers."""
        check_invalid(self.dataset, "unknown_option", 1)
        for name, field in self.dataset.model_fields.items():
            if field.annotation in (int, float):
                check_invalid(self.dataset, name, "many")

    def test_documents_are_texts(self) -> None:
        """Every document is a str with some text that UTF-8 can store."""
        documents = self.documents()
        assert documents, "there are no documents"
        for document in documents:
            assert type(document) is str, f"a document is {type(document).__name__}, not str"
            assert document.strip(), "a document is empty"
            document.encode()

    def test_documents_are_the_same_each_time(self) -> None:
        """The same options yield the same documents in the same order."""
        assert self.documents() == self.documents(), "the documents differ; derive random numbers from an option `seed`"

    def test_two_iterations_are_independent(self) -> None:
        """Reading from one iterator does not advance another of the same dataset."""
        dataset = self.dataset(**self.options)
        together = list(itertools.islice(zip(dataset.documents(), dataset.documents(), strict=True), DOCUMENTS))
        assert all(one == other for one, other in together), "two iterators of one dataset share their state"
