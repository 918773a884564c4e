//! D. Formation.
