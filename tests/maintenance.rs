//! Counts by schema version, switches of the version, migrations and rewrites.

mod faulty;
mod models;
mod switch;
mod versions;
