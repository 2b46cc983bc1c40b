//! Translates the remedies in messages of the library, which name its functions, into commands of the tool.

/// Remedies of the library, each with its replacement for an operator. `BUCKET` is the bucket of the error. A text comes
/// before a shorter text that it contains.
const REMEDIES: &[(&str, &str)] = &[
    // Errors of a write.
    ("; read again, or use `modify`", ""),
    ("; use `update`, `put` or `modify` to change it", "; change it with `kvtyped put` or `kvtyped patch`"),
    ("; write one with `create` or `put`", ""),
    ("; raise `.max_attempts` or `.timeout`, or use more keys", "; repeat the command, or raise `--timeout`"),
    (
        "; write the record without a TTL with `put` or `update`",
        "; write the record with `kvtyped put BUCKET KEY --no-ttl`, or run `kvtyped bucket set BUCKET --history 1`",
    ),
    ("; raise `max_value_size`, or", "; raise it with `kvtyped bucket set BUCKET --max-value-size`, or"),
    ("; raise its `max_bytes` (", "; raise its limit with `kvtyped bucket set BUCKET --max-bytes` ("),
    ("; see the module `kvtyped::permissions`", "; see what the user may do with `kvtyped doctor BUCKET`"),
    // Settings of a bucket.
    ("; open it without `must_exist` or `read_only` to create it", ""),
    ("; open it without `must_create`", "; change its settings with `kvtyped bucket set BUCKET`"),
    (
        "; change the model, or open it with `.on_drift(Drift::Adopt)` or `Drift::Update`",
        "; change its settings with `kvtyped bucket set BUCKET`",
    ),
    ("; open it with `.atomic(true).on_drift(Drift::Update)`", "; run `kvtyped bucket set BUCKET --atomic true`"),
    (
        "; set `rollups`, or use `delete`, or `compact` as an administrator",
        "; run `kvtyped bucket set BUCKET --rollups true`, or remove records without `--purge`",
    ),
    ("; set `rollups`", "; run `kvtyped bucket set BUCKET --rollups true`"),
    (
        "that allows purges; open it once with `.on_drift(Drift::Update)`",
        "that allows purges; run `kvtyped bucket set BUCKET --rollups true`",
    ),
    (
        "`limit_markers`, to announce expired leases; open it once with `.limit_markers(..)` and \
         `.on_drift(Drift::Update)` on nats-server 2.11 or newer",
        "limit markers, to announce expired leases; run `kvtyped bucket set BUCKET --limit-markers 5m`, on nats-server \
         2.11 or newer",
    ),
    (
        "limit markers for the TTL of a key; open the bucket with `limit_markers` and `Drift::Update`",
        "limit markers for the TTL of a key; run `kvtyped bucket set BUCKET --limit-markers 5m`",
    ),
    (
        "`limit_markers` for the TTL of a key; open the bucket with `.limit_markers(..)`",
        "limit markers for the TTL of a key; run `kvtyped bucket set BUCKET --limit-markers 5m`",
    ),
    ("without `limit_markers`", "without limit markers"),
    ("cannot be off with `limit_markers`", "cannot be off with limit markers"),
    ("a `max_bytes` of at least", "a limit of bytes of at least"),
    ("`LimitMarkers::Off`", "`off`"),
    // Remedies that need a program of the model.
    (
        "a stream with the settings of a bucket; open it once with `.on_drift(Drift::Update)`",
        "a stream with the settings of a bucket; its program must open it once and update its settings",
    ),
    (
        "; open it with its model and `.on_drift(Drift::Update)`",
        "; a program of its model must open it once and update its settings",
    ),
    (
        "; open the bucket with `write_epochs` and `Drift::Update`",
        "; a program with write epochs must open the bucket and update its settings",
    ),
    (
        "; call `build_index`, or `maintain_indexes` for an eventual index",
        "; a program of the model must build the index",
    ),
    // Files.
    ("copy what is readable with `salvage`", "copy what is readable with `kvtyped file salvage`"),
    ("; stop it, or use another file", ""),
];

/// Returns a message of the library in the words of the tool.
pub(crate) fn translate(message: &str, bucket: Option<&str>) -> String {
    let bucket = bucket.filter(|bucket| !bucket.is_empty()).unwrap_or("BUCKET");
    let message = REMEDIES.iter().fold(message.to_owned(), |message, (remedy, words)| {
        if message.contains(remedy) { message.replace(remedy, &words.replace("BUCKET", bucket)) } else { message }
    });
    // Every bucket of the tool has this model.
    message.replace(" as `RawRecord`", "")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;

    /// Names of the library that must not appear in messages of the tool.
    const NAMES: &[&str] = &[
        "atomic",
        "build_index",
        "compact",
        "create",
        "delete",
        "limit_markers",
        "maintain_indexes",
        "modify",
        "must_create",
        "must_exist",
        "read_only",
        "salvage",
        "update",
        "verify_indexes",
        "write_epochs",
    ];

    /// Messages that the tool cannot cause: the beginning of a path, and why.
    const UNREACHABLE: &[(&str, &str)] = &[
        ("backend/nats/connection/secret_file.rs", "it is a placeholder"),
        ("backend/nats/mod.rs", "the tool requests no write epochs"),
        ("bucket/index/", "the tool looks nothing up"),
        ("bucket/indexes.rs", "the tool opens no model"),
        ("bucket/list/cursor.rs", "the tool parses cursors, with its own message"),
        ("bucket/model_card.rs", "the tool opens no model"),
        ("bucket/open.rs", "the tool does not combine these"),
        ("codec/", "a diagnostic of the compiler"),
        ("config/epochs.rs", "the tool requests no write epochs"),
        ("config/index_entries.rs", "the tool requests no index entries"),
        ("index/", "the tool looks nothing up"),
        ("key/", "keys of models, and diagnostics of the compiler"),
        ("maintenance/", "jobs of programs"),
        ("model/", "diagnostics of the compiler"),
        ("private.rs", "diagnostics of the compiler"),
        ("recipes/lease/wait.rs", "the tool joins no group"),
        ("recipes/once/output.rs", "a panic of a program"),
        ("schema/", "comparisons for programmers"),
        ("txn/", "the tool has no transactions"),
    ];

    /// Whether a message names a part of the library.
    fn names_library(message: &str) -> bool {
        let quoted = message.split('`').skip(1).step_by(2);
        quoted.into_iter().any(|text| {
            let mut letters = text.chars();
            let is_type = letters.next().is_some_and(|first| first.is_ascii_uppercase())
                && letters.clone().all(|letter| letter.is_ascii_alphanumeric())
                && letters.any(|letter| letter.is_ascii_lowercase());
            text.contains(['(', '!'])
                || text.contains("::")
                || text.starts_with('.')
                || is_type
                || NAMES.contains(&text)
        })
    }

    fn files(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            match path.is_dir() {
                true if ["tests", "conformance", "integrations"].contains(&name) => {}
                true => files(&path, found),
                false if name.ends_with(".rs") && name != "tests.rs" => found.push(path),
                false => {}
            }
        }
    }

    /// Returns the texts in a source file, without comments and tests.
    fn texts(source: &str) -> Vec<String> {
        let source = source.split("#[cfg(test)]\nmod tests").next().unwrap();
        let lines = source.lines().filter(|line| !line.trim_start().starts_with("//"));
        let source = lines.collect::<Vec<_>>().join("\n").replace("\\\"", "'");
        let quoted = source.split('"').skip(1).step_by(2);
        let joined = |text: &str| {
            text.split("\\\n").enumerate().map(|(n, line)| if n > 0 { line.trim_start() } else { line }).collect()
        };
        quoted.map(joined).collect()
    }

    fn library() -> Vec<(String, Vec<String>)> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../src");
        let mut found = Vec::new();
        files(&root, &mut found);
        let name = |path: &Path| path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        found.iter().map(|path| (name(path), texts(&fs::read_to_string(path).unwrap()))).collect()
    }

    #[test]
    fn messages_of_the_library_name_no_functions() {
        let library = library();
        let mut left = Vec::new();
        for (file, texts) in &library {
            let is_reachable = !UNREACHABLE.iter().any(|(start, _)| file.starts_with(start));
            for text in texts.iter().filter(|text| is_reachable && names_library(text)) {
                if names_library(&translate(text, Some("b"))) {
                    left.push(format!("{file}: {}", translate(text, Some("b"))));
                }
            }
        }
        assert!(left.is_empty(), "translate in `REMEDIES`, or list as unreachable:\n{}", left.join("\n"));
    }

    #[test]
    fn every_remedy_and_every_exception_is_one_of_the_library() {
        let library = library();
        for (remedy, words) in REMEDIES {
            let is_there = library.iter().any(|(_, texts)| texts.iter().any(|text| text.contains(remedy)));
            assert!(is_there, "the library has no `{remedy}`");
            assert!(!names_library(words), "{words}");
        }
        for (start, reason) in UNREACHABLE {
            let mut files = library.iter().filter(|(file, _)| file.starts_with(start));
            assert!(files.any(|(_, texts)| texts.iter().any(|text| names_library(text))), "{start}: {reason}");
        }
    }

    #[test]
    fn messages_of_the_tool_name_no_functions() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut found = Vec::new();
        files(&root, &mut found);
        for path in found.iter().filter(|path| !path.ends_with("remedy.rs")) {
            for text in texts(&fs::read_to_string(path).unwrap()) {
                assert!(!names_library(&text), "{}: {text}", path.display());
            }
        }
    }

    #[test]
    fn remedies_name_the_bucket() {
        let message = "a bucket that allows rollups; set `rollups`";
        assert_eq!(
            translate(message, Some("jobs")),
            "a bucket that allows rollups; run `kvtyped bucket set jobs --rollups true`"
        );
        assert!(translate(message, None).contains("BUCKET"));
    }
}
