//! C. Disk and state.
