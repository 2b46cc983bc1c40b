//! Replays the corpus of the fuzz targets: inputs that once failed, and inputs that guide the search.

use std::fs;
use std::path::{Path, PathBuf};

use crate::properties;

type Property = fn(&[u8]);

const TARGETS: [(&str, Property); 9] = [
    ("filter", properties::filter::check),
    ("json", properties::json::check),
    ("key", properties::key::check),
    ("msgpack", properties::msgpack::check),
    ("stored", properties::stored::check),
    ("template", properties::template::check),
    ("text", properties::text::check),
    ("units", properties::units::check),
    ("url", properties::url::check),
];

fn folder(of: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(of)
}

/// Returns the sorted names in a directory.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut names: Vec<_> = entries
        .map(|entry| entry.expect("the folder is read").file_name().into_string().expect("a plain name"))
        .collect();
    names.sort_unstable();
    names
}

/// Asserts that the property of a target holds for its whole corpus, on the stack of a tokio task.
fn replay(target: &str, property: Property) {
    let folder = folder("corpus").join(target);
    let names = names(&folder);
    assert!(!names.is_empty(), "{} holds nothing", folder.display());
    for name in names {
        let bytes = fs::read(folder.join(&name)).expect("the file is read");
        let tried = std::thread::Builder::new().stack_size(2 << 20).spawn(move || property(&bytes)).expect("a thread");
        assert!(tried.join().is_ok(), "a property of `{target}` does not hold for corpus/{target}/{name}");
    }
}

macro_rules! replayed {
    ($($name:ident: $target:literal;)*) => {$(
        #[test]
        fn $name() {
            let (_, property) = TARGETS.iter().find(|(name, _)| *name == $target).expect("a target");
            replay($target, *property);
        }
    )*};
}

replayed! {
    filters_hold_for_the_corpus: "filter";
    json_holds_for_the_corpus: "json";
    keys_hold_for_the_corpus: "key";
    msgpack_holds_for_the_corpus: "msgpack";
    stored_messages_hold_for_the_corpus: "stored";
    templates_hold_for_the_corpus: "template";
    texts_hold_for_the_corpus: "text";
    units_hold_for_the_corpus: "units";
    urls_hold_for_the_corpus: "url";
}

#[test]
fn every_fuzz_target_has_a_corpus() {
    let targets = TARGETS.map(|(name, _)| name);
    assert_eq!(names(&folder("corpus")), targets);
    assert_eq!(names(&folder("targets")), targets.map(|name| format!("{name}.rs")));
}

#[test]
fn corpus_stays_small() {
    let files = TARGETS.iter().flat_map(|(target, _)| {
        let folder = folder("corpus").join(target);
        names(&folder).into_iter().map(move |name| fs::metadata(folder.join(name)).expect("a file").len())
    });
    let files: Vec<_> = files.collect();
    assert!(files.len() < 300, "{} files: minimise them, see CONTRIBUTING.md", files.len());
    assert!(files.iter().sum::<u64>() < 300_000, "{files:?}");
}
