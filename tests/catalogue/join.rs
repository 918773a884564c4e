//! E. Join and replace.
