"""What each scope allows."""

from __future__ import annotations

import pytest

from adapter_service.auth import ADMIN, APP, READ, allows, node_in, node_scope
from adapter_service.auth.scopes import check_scopes
from adapter_service.errors import InvalidParameterError


@pytest.mark.parametrize(
    ("scope", "allowed"),
    [
        (ADMIN, {ADMIN, APP, READ, "node:kitchen"}),
        (APP, {APP, READ}),
        (READ, {READ}),
        ("node:kitchen", {"node:kitchen"}),
    ],
)
def test_each_scope_allows_what_it_says_and_no_more(scope: str, allowed: set[str]) -> None:
    every = {ADMIN, APP, READ, "node:kitchen", "node:kitchen2", "node:"}
    assert {needed for needed in every if allows({scope}, needed)} - {"node:", "node:kitchen2"} == allowed
    assert allows({scope}, "node:kitchen2") == (scope == ADMIN)


def test_no_scopes_allow_nothing() -> None:
    assert not any(allows(frozenset(), needed) for needed in (ADMIN, APP, READ, "node:kitchen", ""))


def test_a_nodes_scope_has_its_id() -> None:
    assert node_in({node_scope("kitchen")}) == "kitchen"
    assert node_in({APP, READ}) is None


@pytest.mark.parametrize("scopes", [{ADMIN}, {APP, READ}, {"node:kitchen"}])
def test_scopes_that_go_together_will_do(scopes: set[str]) -> None:
    check_scopes(scopes)


@pytest.mark.parametrize(
    ("scopes", "says"),
    [
        (set(), "no scope"),
        ({"root"}, "unknown scope 'root'"),
        ({"node:"}, "'' is no node's id"),
        ({"Admin"}, "unknown scope"),
        ({"node:a admin"}, "'a admin' is no node's id"),
        ({"node:a\tadmin"}, "no node's id"),
        ({"node:a\n"}, "no node's id"),
        ({"node:a/b"}, "no node's id"),
        ({APP, "node:kitchen"}, "do not go together"),
        ({"node:hall", "node:kitchen"}, "do not go together"),
    ],
)
def test_others_are_refused_with_what_there_is(scopes: set[str], says: str) -> None:
    with pytest.raises(InvalidParameterError, match=says):
        check_scopes(scopes)
