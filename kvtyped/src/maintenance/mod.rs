//! Long jobs over the records of a model: counts by schema version, switches of the version, migrations, and indexes.
//!
//! | I want | use |
//! |---|---|
//! | to know which schema versions the records have | [`ReadBucket::schema_versions`](crate::ReadBucket::schema_versions) |
//! | to make all programs write another version | [`Bucket::switch_version`](crate::Bucket::switch_version) |
//! | to write all older records in the new version | [`Bucket::migrate`](crate::Bucket::migrate) |
//! | to change all records by a function | [`Bucket::rewrite`](crate::Bucket::rewrite) |
//! | to add an index to a bucket with records | [`Bucket::build_index`](crate::Bucket::build_index) |
//! | to compare indexes with the records, and to repair them | [`Bucket::verify_indexes`](crate::Bucket::verify_indexes) |
//! | to remove an index | [`Bucket::drop_index`](crate::Bucket::drop_index) |
//! | to index what other clients write | [`Bucket::maintain_indexes`](crate::Bucket::maintain_indexes) |
//!
//! # One job at a time
//!
//! `migrate`, `rewrite`, `build_index` and `drop_index` hold a lease for their model in the bucket itself, under the key
//! `=kvtyped.maintenance.<model>.lease`. A second job fails with `Unavailable`, which names the holder. All but `drop_index`
//! can wait with `.wait(..)`. A job that loses its lease stops with `Lost`. If its process dies, the lease is free after
//! 30 s. `maintain_indexes` has a separate lease, so it runs beside these jobs.
//!
//! A bucket may be unable to hold leases: it keeps more than one revision of each key, has no limit markers, is almost
//! full, or denies the key to this user. The jobs then run without a lease. A migration is idempotent, so two
//! migrations at once only waste work. Two rewrites at once both apply their functions.

// Each module imports only from modules above it.
//
// | file | content |
// |---|---|
// | `lease` | one job at a time |
// | `versions` | `schema_versions` |
// | `switch` | `switch_version` |
// | `remaining_ttl`, `pacer`, `checkpoint` | the rest of a TTL, the speed, and the stored position of a job |
// | `engine` | one pass over the records |
// | `options` | the options that all jobs share |
// | `migrate`, `rewrite` | the jobs over all records |
// | `follow_record`, `verify_indexes`, `build_index` | the entries of one record and of all records |
// | `follow_queue`, `follower`, `maintain_indexes` | the entries of changed records: the queue of changes, one term, and the loop of a service |
// | `drop_index` | the removal of an index |
mod lease;
mod versions;
mod switch;
mod remaining_ttl;
mod pacer;
mod checkpoint;
mod engine;
mod options;
mod migrate;
mod rewrite;
mod follow_record;
mod follow_queue;
mod verify_indexes;
mod build_index;
mod follower;
mod maintain_indexes;
mod drop_index;

pub use self::build_index::{BuildIndex, IndexBuildProgress, IndexBuilt};
pub use self::drop_index::DropIndex;
pub use self::engine::RewriteProgress;
pub use self::follow_record::IndexDuplicate;
pub use self::maintain_indexes::{MaintainIndexes, MaintainIndexesUntil};
pub use self::migrate::{DryRun, Migrate, Migrated, MigrationPlan};
pub use self::rewrite::{Rewrite, Rewritten};
pub use self::switch::{SwitchVersion, VersionSwitch};
pub use self::verify_indexes::{IndexCheck, IndexReport, VerifyIndexes};
pub use self::versions::{CountVersions, SchemaVersions};
