//! The cost of the derive at compile time.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::measure::Measured;
use crate::report::{home, workspace};
use crate::world::World;

const MODELS: usize = 100;
const BLOCKS: usize = 5;

pub(crate) fn measure(world: &mut World) {
    world.report.group("Compiling");
    let [with, without] = [true, false].map(package);
    check(&with);
    check(&without);
    let mut measured = Measured::default();
    for block in 0..BLOCKS {
        let (ours, theirs) = match block % 2 {
            0 => (check(&with), check(&without)),
            _ => {
                let theirs = check(&without);
                (check(&with), theirs)
            }
        };
        measured.ours.push(vec![ours]);
        measured.theirs.push(vec![theirs]);
    }
    let name = format!("cargo check of {MODELS} models");
    world.report.row(name, "the same structs with serde's derives alone").measured(&measured);
}

/// Creates a package of [`MODELS`] structs, with or without the derive of models.
fn package(derived: bool) -> PathBuf {
    let name = if derived { "with" } else { "without" };
    let folder = home().join("derive").join(name);
    fs::create_dir_all(folder.join("src")).expect("the folder can be made");
    let kvtyped = workspace().join("kvtyped");
    let manifest = format!(
        "[package]\nname = \"{name}\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[dependencies]\n\
         kvtyped = {{ path = {kvtyped:?} }}\nserde = {{ version = \"1\", features = [\"derive\"] }}\n\n[workspace]\n",
    );
    fs::write(folder.join("Cargo.toml"), manifest).expect("the manifest can be written");
    fs::copy(workspace().join("Cargo.lock"), folder.join("Cargo.lock")).expect("the versions can be copied");
    let mut text = String::from("#![allow(unused)]\nuse kvtyped::prelude::*;\n");
    for n in 0..MODELS {
        let (derive, attribute) = match derived {
            true => {
                (", KvModel", format!("#[kv(bucket = \"sessions_{n}\", key = \"{{tenant}}.{{id}}\", ttl = \"30m\")]\n"))
            }
            false => ("", String::new()),
        };
        write!(
            text,
            "\n#[derive(Clone, Debug, PartialEq, Serialize, Deserialize{derive})]\n{attribute}\
             pub struct Session{n} {{\n    pub tenant: String,\n    pub id: u64,\n    pub user: String,\n    \
             pub visits: u32,\n}}\n",
        )
        .expect("a string takes it");
    }
    fs::write(folder.join("src/lib.rs"), text).expect("the source can be written");
    folder
}

/// Returns the time to check the package again, without its dependencies.
fn check(folder: &Path) -> f64 {
    let source = folder.join("src/lib.rs");
    let text = fs::read_to_string(&source).expect("the source is there");
    fs::write(&source, text).expect("the source can be written");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["check", "--quiet", "--lib"]).current_dir(folder).env("CARGO_INCREMENTAL", "0");
    // Both packages share a target folder, so that their dependencies are built once.
    command.env("CARGO_TARGET_DIR", home().join("derive/target"));
    let started = Instant::now();
    assert!(command.status().expect("cargo runs").success(), "the generated package compiles");
    started.elapsed().as_secs_f64()
}
