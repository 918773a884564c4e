//! Support for the tests: scratch directories, tools, the lab driven as a user drives it.
