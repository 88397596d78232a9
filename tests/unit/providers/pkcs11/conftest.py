"""A token for each module of tests, and a provider on it; a faulty module for those that want one."""

from collections.abc import Iterator
from pathlib import Path
from shutil import rmtree

import pytest

from hsmbridge.providers.pkcs11 import Pkcs11Provider
from tests.faulty_module import FaultyModule
from tests.unit.providers.pkcs11.tokens import Tokens, make_tokens, open_token


@pytest.fixture(scope="module")
def tokens() -> Iterator[Tokens]:
    """A SoftHSM with one token, labelled "lab"; it is the current one."""
    made = make_tokens("lab")
    with made.current():
        yield made
    rmtree(made.directory)


@pytest.fixture
def provider(tokens: Tokens) -> Iterator[Pkcs11Provider]:
    opened = open_token()
    yield opened
    opened.close()


@pytest.fixture
def faulty_module(tmp_path: Path, tokens: Tokens) -> FaultyModule:
    """The same SoftHSM with its tokens, behind a wrapper that fails where a test says so."""
    return FaultyModule.build(tmp_path / "faulty")


@pytest.fixture
def faulty(faulty_module: FaultyModule) -> Iterator[Pkcs11Provider]:
    """A provider on the faulty module."""
    opened = open_token(module=faulty_module.path)
    yield opened
    opened.close()
