//! Counts by schema version, switches of the version, migrations and rewrites.

mod faulty;
mod interrupted;
mod lives;
mod migrate;
mod models;
mod rewrite;
mod switch;
mod versions;
