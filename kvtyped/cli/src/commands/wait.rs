//! `wait`: waits until a record has a value.

use kvtyped::ErrorKind;

use crate::app::App;
use crate::commands::{get, key};
use crate::entry::Shown;
use crate::fail::{Code, Done, Failure};
use crate::json::Json;
use crate::path::Path;

/// The arguments of `wait`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The bucket
    bucket: String,
    /// The key
    key: String,
    /// The path of a field and its value, such as `status.phase=done` or `items[0].id=7`. Without a value, the field
    /// must exist. Without the argument, the record must exist. `--timeout` bounds the wait
    #[arg(value_name = "PATH=VALUE")]
    condition: Option<String>,
}

pub(crate) async fn run(app: &App, args: Args) -> Done {
    let condition = args.condition.as_deref().map(Condition::parse).transpose()?;
    let key = key(&args.key)?;
    let view = app.view(&args.bucket).await?;
    let predicate = |entry: &kvtyped::Entry<kvtyped::RawRecord>| {
        let decoded = view.models.decode(entry.key(), entry.headers(), &entry.bytes);
        match (&condition, decoded.value) {
            (None, _) => true,
            (Some(condition), Ok(value)) => condition.holds(&value),
            (Some(_), Err(_)) => false,
        }
    };
    let waited = view.bucket.wait_for(&key, predicate).timeout(app.options.timeout).await;
    let entry = waited.map_err(|error| match error.kind() {
        ErrorKind::Timeout { .. } => {
            let what = args.condition.as_deref().unwrap_or("it to exist");
            let failure =
                Failure::late(format!("record `{key}` of bucket `{}`: timed out waiting for {what}", args.bucket));
            failure.hint("raise `--timeout`")
        }
        _ => Failure::from(error),
    })?;
    let shown = Shown::of_entry(view.name(), &view.models, &entry);
    app.out.one(&["KEY", "REVISION", "AGE", "LEFT", "CODEC"], &get::item(app, &shown))?;
    Ok(Code::Success)
}

/// A condition on a value.
#[derive(Debug)]
struct Condition {
    path: Path,
    wanted: Option<Json>,
}

impl Condition {
    fn parse(text: &str) -> Result<Self, Failure> {
        let (path, rest) = Path::split(text)?;
        let wanted = match rest.strip_prefix('=') {
            Some(value) => Some(Json::parse(value.as_bytes()).unwrap_or_else(|_| Json::from(value))),
            None if rest.is_empty() => None,
            None => {
                return Err(Failure::usage(format!("`{text}` is no condition of `wait`; use `PATH=VALUE` or `PATH`")));
            }
        };
        Ok(Self { path, wanted })
    }

    fn holds(&self, value: &Json) -> bool {
        match (self.path.find(value), &self.wanted) {
            (Some(found), Some(wanted)) => found == wanted,
            (found, None) => found.is_some(),
            (None, Some(_)) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_compare_json_values() {
        let value = Json::parse(br#"{"phase":"done","tries":3,"deep":{"ok":true},"list":[{"id":7}]}"#).unwrap();
        for (condition, holds) in [
            (".phase=done", true),
            (".phase=\"done\"", true),
            ("tries=3", true),
            ("tries=\"3\"", false),
            ("tries=4", false),
            ("deep.ok=true", true),
            ("deep={\"ok\":true}", true),
            ("deep", true),
            ("list[0].id=7", true),
            ("list[1]", false),
            ("none", false),
            ("none=1", false),
        ] {
            assert_eq!(Condition::parse(condition).unwrap().holds(&value), holds, "{condition}");
        }
        for invalid in ["phase!=done", "list[x]=1"] {
            assert!(Condition::parse(invalid).is_err(), "{invalid}");
        }
    }
}
