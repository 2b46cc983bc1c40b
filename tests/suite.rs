//! All tests that see the public API alone, as one binary: one link, one shared server, all cores.

mod derive;
mod layering;
mod support;
mod verbs;
