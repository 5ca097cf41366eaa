//! Every error of the library, grouped by who has to act on it.
