"""The smoke suite, a package of its own so that its conftest is not taken for that of the other tests."""
