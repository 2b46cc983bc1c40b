//! Contexts: names for stores, with their credentials. The files of the `nats` tool are read, too.

use std::fs;
use std::path::{Path, PathBuf};

use kvtyped::connect::NatsOptions;

use crate::fail::Failure;
use crate::json::{Json, object};

/// A context.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    /// `kvtyped` or `nats`: the tool that owns the file.
    pub(crate) owner: &'static str,
    fields: Json,
}

/// The fields whose values are shown as `***`.
const SECRETS: [&str; 4] = ["password", "token", "nkey_seed", "user_jwt"];

/// The fields of a context. The `nats` tool knows more than this tool uses.
const FIELDS: &[&str] = &[
    "ca",
    "cert",
    "color_scheme",
    "creds",
    "description",
    "inbox_prefix",
    "jetstream_api_prefix",
    "jetstream_domain",
    "jetstream_event_prefix",
    "key",
    "nkey",
    "nkey_seed",
    "nsc",
    "password",
    "production",
    "read_only",
    "socks_proxy",
    "tls_first",
    "token",
    "url",
    "user",
    "user_jwt",
    "user_seed",
];

impl Context {
    fn text(&self, field: &str) -> Option<&str> {
        self.fields.get(field).and_then(Json::text).filter(|text| !text.is_empty())
    }

    /// Returns the URL. The default of the `nats` tool is the local server.
    pub(crate) fn url(&self) -> &str {
        self.text("url").unwrap_or("nats://127.0.0.1:4222")
    }

    /// Whether the context allows no writes.
    pub(crate) fn is_read_only(&self) -> bool {
        self.fields.get("read_only").is_some_and(Json::is_true)
    }

    /// Whether dangerous commands ask for the name of the bucket.
    pub(crate) fn is_production(&self) -> bool {
        self.fields.get("production").is_some_and(Json::is_true)
    }

    /// Returns the options of the connection.
    pub(crate) fn options(&self) -> NatsOptions {
        let mut options = NatsOptions::new();
        if let Some(user) = self.text("user") {
            options = options.user_and_password(user, self.text("password").unwrap_or_default());
        }
        if let Some(token) = self.text("token") {
            options = options.token(token);
        }
        if let Some(path) = self.text("nkey") {
            options = options.nkey_file(home_path(path));
        }
        if let Some(path) = self.text("creds") {
            options = options.credentials_file(home_path(path));
        }
        if let Some(path) = self.text("ca") {
            options = options.root_certificates(home_path(path)).require_tls(true);
        }
        if let (Some(certificate), Some(key)) = (self.text("cert"), self.text("key")) {
            options = options.client_certificate(home_path(certificate), home_path(key)).require_tls(true);
        }
        if self.fields.get("tls_first").is_some_and(Json::is_true) {
            options = options.tls_first();
        }
        if let Some(domain) = self.text("jetstream_domain") {
            options = options.domain(domain);
        }
        if let Some(prefix) = self.text("jetstream_api_prefix") {
            options = options.prefix(prefix);
        }
        match self.text("inbox_prefix") {
            Some(prefix) => options.inbox_prefix(prefix),
            None => options,
        }
    }

    /// Returns the context as an object, without its secrets.
    pub(crate) fn json(&self, is_selected: bool) -> Json {
        let mut json = object! {
            "v" => 1u8,
            "type" => "context",
            "name" => self.name.as_str(),
            "owner" => self.owner,
            "file" => self.path.display().to_string(),
            "selected" => is_selected,
            "url" => without_userinfo(self.url()),
            "read_only" => self.is_read_only(),
            "production" => self.is_production(),
        };
        let Json::Object(fields) = &self.fields else { return json };
        for (name, value) in fields {
            let is_shown = json.get(name).is_some() || *value == Json::from("") || *value == Json::Null;
            if !is_shown {
                let is_secret = SECRETS.contains(&name.as_str());
                json = json.with(name, if is_secret { Json::from("***") } else { value.clone() });
            }
        }
        json
    }

    /// Warns if other users may read the file of a context with secrets.
    pub(crate) fn exposed(&self) -> Option<String> {
        let has_secrets = SECRETS.iter().any(|field| self.text(field).is_some()) || self.url().contains('@');
        let mode = file_mode(&self.path)?;
        (has_secrets && mode & 0o077 != 0).then(|| {
            format!("other users may read `{}`, which has secrets; run `chmod 600` on it", self.path.display())
        })
    }
}

#[cfg(unix)]
fn file_mode(path: &Path) -> Option<u32> {
    use std::os::unix::fs::PermissionsExt;
    Some(fs::metadata(path).ok()?.permissions().mode())
}

#[cfg(not(unix))]
fn file_mode(_: &Path) -> Option<u32> {
    None
}

/// Replaces `~` at the start of a path.
fn home_path(path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), home()) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(path),
    }
}

fn home() -> Option<PathBuf> {
    std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from)
}

/// Returns the folder of configuration files.
fn config_folder() -> Option<PathBuf> {
    let named = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    named.or_else(|| Some(home()?.join(".config")))
}

/// Returns the folders of contexts with their owners. The first one wins.
fn folders() -> Vec<(PathBuf, &'static str)> {
    let Some(config) = config_folder() else { return Vec::new() };
    vec![(config.join("kvtyped/context"), "kvtyped"), (config.join("nats/context"), "nats")]
}

fn selection_file() -> Option<PathBuf> {
    Some(config_folder()?.join("kvtyped/context.txt"))
}

/// Returns all contexts, in order.
pub(crate) fn all() -> Result<Vec<Context>, Failure> {
    let mut contexts: Vec<Context> = Vec::new();
    for (folder, owner) in folders() {
        let Ok(files) = fs::read_dir(&folder) else { continue };
        for file in files {
            let path = file?.path();
            let name = path.file_stem().and_then(|name| name.to_str()).map(str::to_owned);
            let (Some(name), true) = (name, path.extension().is_some_and(|extension| extension == "json")) else {
                continue;
            };
            if !contexts.iter().any(|context| context.name == name) {
                contexts.push(read(name, path, owner)?);
            }
        }
    }
    contexts.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(contexts)
}

/// Returns the context of this name.
pub(crate) fn find(name: &str) -> Result<Context, Failure> {
    let is_name = !name.is_empty() && !name.contains(['/', '\\']) && !name.starts_with('.');
    let found = folders().into_iter().filter(|_| is_name).find_map(|(folder, owner)| {
        let path = folder.join(format!("{name}.json"));
        path.is_file().then(|| read(name.to_owned(), path, owner))
    });
    found.unwrap_or_else(|| {
        Err(Failure::not_found(format!("context `{name}` does not exist"))
            .hint("list the contexts with `kvtyped context ls`"))
    })
}

fn read(name: String, path: PathBuf, owner: &'static str) -> Result<Context, Failure> {
    let wrong = |reason: &str| Failure::usage(format!("context file `{}` {reason}", path.display()));
    let text = fs::read(&path).map_err(|error| wrong(&format!("cannot be read: {error}")))?;
    // Without the message of the parser, which may quote a secret.
    let fields = Json::parse(&text).map_err(|_| wrong("is not JSON"))?;
    if let (Json::Object(fields), "kvtyped") = (&fields, owner)
        && let Some((unknown, _)) = fields.iter().find(|(name, _)| !FIELDS.contains(&name.as_str()))
    {
        return Err(wrong(&format!("has the unknown field `{unknown}`")));
    }
    match fields {
        Json::Object(_) => Ok(Context { name, path, owner, fields }),
        _ => Err(wrong("is not an object")),
    }
}

/// Returns the name of the selected context: of this tool, else of the `nats` tool.
pub(crate) fn selected() -> Option<String> {
    let nats = config_folder()?.join("nats/context.txt");
    [selection_file()?, nats].into_iter().find_map(|file| {
        let name = fs::read_to_string(file).ok()?.trim().to_owned();
        (!name.is_empty()).then_some(name)
    })
}

/// Selects a context.
pub(crate) fn select(name: &str) -> Result<(), Failure> {
    let context = find(name)?;
    let file = selection_file().ok_or_else(|| Failure::usage("neither HOME nor XDG_CONFIG_HOME is set"))?;
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    Ok(fs::write(file, context.name)?)
}

/// Replaces the user and the password in a URL.
pub(crate) fn without_userinfo(url: &str) -> String {
    let hide = |address: &str| match address.split_once("://") {
        Some((scheme, rest)) => match rest.rsplit_once('@') {
            Some((_, host)) => format!("{scheme}://***@{host}"),
            None => address.to_owned(),
        },
        None => match address.rsplit_once('@') {
            Some((_, host)) => format!("***@{host}"),
            None => address.to_owned(),
        },
    };
    url.split(',').map(hide).collect::<Vec<_>>().join(",")
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("name", &self.name).field("path", &self.path).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_and_password_are_hidden() {
        for (url, shown) in [
            ("nats://ada:secret@host:4222", "nats://***@host:4222"),
            ("nats://token@host", "nats://***@host"),
            ("nats://a:p@ss@host,nats://b:q@other", "nats://***@host,nats://***@other"),
            ("nats://host:4222", "nats://host:4222"),
            ("file:app.kv", "file:app.kv"),
        ] {
            assert_eq!(without_userinfo(url), shown);
        }
    }

    #[test]
    fn secrets_of_a_context_are_not_shown() {
        let text = br#"{"url":"nats://u:pw1@host","password":"pw2","token":"pw3","user":"ada","production":true}"#;
        let fields = Json::parse(text).unwrap();
        let context = Context { name: "prod".into(), path: "p.json".into(), owner: "nats", fields };
        let text = format!("{} {context:?}", context.json(true).line());
        assert!(!text.contains("pw") && text.contains("***") && text.contains("ada"), "{text}");
        assert!(context.is_production() && !context.is_read_only());
    }
}
