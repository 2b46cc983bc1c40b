# Short names of common commands. `just` lists them, and CONTRIBUTING.md describes them.

_default:
    @just --list --unsorted

# The first example, without a server
quickstart:
    cargo run --example quickstart

# All tests, or the tests of the suite whose names contain NAME
test NAME="":
    {{ if NAME == "" { "cargo test --workspace" } else { "cargo test -p kvtyped-tests --test suite -- " + NAME } }}

# Formatting and lints
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --all-features -- -D warnings

# The documentation as docs.rs shows it
docs:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --all-features --open

# Everything that must pass before a change lands
ci:
    .ci/run

# Faults of servers and networks, quick or selected ones: `just faults parted`
faults *NAMES="--quick":
    cargo test -p kvtyped-tests --test faults -- {{ NAMES }}

# Costs compared with the plain client, all or some groups: `just bench locks many`
bench *GROUPS:
    cargo run --release -p kvtyped-benches -- {{ GROUPS }}

# Costs compared with etcd and Redis, or one of them: `just peers redis`
peers *NAMES:
    cargo run --release --manifest-path benches/peers/Cargo.toml --target-dir target -- {{ NAMES }}

# The suite on other versions of nats-server: `just versions 2.11.11`
versions *VERSIONS:
    .ci/versions {{ VERSIONS }}

# Licenses, features, oldest Rust, oldest dependencies, public API, packages
hygiene *STEPS:
    .ci/hygiene {{ STEPS }}

# Mutations of the code that no test detects
mutants:
    .ci/mutants

# Fuzzing, for a number of seconds
fuzz SECONDS="60":
    .ci/fuzz {{ SECONDS }}
