//! The settings of the bucket, with the same checks as `BucketConfig::validate`.

use std::time::Duration;

use syn::{Error, Ident, Lit, LitBool, LitInt, LitStr, Result};

use crate::attr::Container;
use crate::ctxt::Ctxt;
use crate::names;
use crate::units;

/// The settings of the bucket that a model declares.
pub(crate) struct Settings {
    pub(crate) bucket: String,
    pub(crate) history: Option<u8>,
    pub(crate) ttl: Option<Duration>,
    pub(crate) max_value_size: Option<u32>,
    pub(crate) max_bytes: Option<u64>,
    pub(crate) storage: Option<Storage>,
    pub(crate) replicas: Option<u8>,
    pub(crate) compression: Option<bool>,
    pub(crate) description: Option<String>,
    /// Zero disables the markers.
    pub(crate) limit_markers: Option<Duration>,
    pub(crate) rollups: Option<bool>,
    pub(crate) write_epochs: Option<WriteEpochs>,
}

#[derive(Clone, Copy)]
pub(crate) enum WriteEpochs {
    Open,
    Closed,
}

#[derive(Clone, Copy)]
pub(crate) enum Storage {
    File,
    Memory,
}

impl Settings {
    /// Parses every setting, and reports every invalid one.
    pub(crate) fn read(attrs: &Container, model: &Ident, ctxt: &mut Ctxt) -> Self {
        let bucket = bucket(attrs.bucket.as_ref(), model);
        Self {
            bucket: ctxt.ok(bucket).unwrap_or_default(),
            history: read_setting(ctxt, attrs.history.as_ref(), |history| number(history, "history", 64)),
            ttl: read_setting(ctxt, attrs.ttl.as_ref(), ttl),
            max_value_size: read_setting(ctxt, attrs.max_value_size.as_ref(), max_value_size),
            max_bytes: read_setting(ctxt, attrs.max_bytes.as_ref(), max_bytes),
            storage: read_setting(ctxt, attrs.storage.as_ref(), storage),
            replicas: read_setting(ctxt, attrs.replicas.as_ref(), |replicas| number(replicas, "replicas", 5)),
            compression: attrs.compression,
            description: attrs.description.as_ref().map(LitStr::value),
            limit_markers: read_setting(ctxt, attrs.limit_markers.as_ref(), limit_markers),
            rollups: read_setting(ctxt, attrs.rollups.as_ref(), |rollups| self::rollups(rollups, attrs)),
            write_epochs: read_setting(ctxt, attrs.write_epochs.as_ref(), write_epochs),
        }
    }

    /// Whether the buckets of the model keep one revision of each key.
    pub(crate) fn is_single_revision(&self) -> bool {
        self.history.is_none_or(|history| history == 1)
    }
}

fn read_setting<L, T>(ctxt: &mut Ctxt, literal: Option<&L>, read: impl FnOnce(&L) -> Result<T>) -> Option<T> {
    literal.and_then(|literal| ctxt.ok(read(literal)))
}

fn bucket(declared: Option<&LitStr>, model: &Ident) -> Result<String> {
    let name = declared.map_or_else(|| names::snake_case(&syn::ext::IdentExt::unraw(model).to_string()), LitStr::value);
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if !name.is_empty() && name.len() <= 128 && name.chars().all(valid) {
        return Ok(name);
    }
    let rule = "`[a-zA-Z0-9_-]+`, at most 128 characters";
    match declared {
        Some(declared) => Err(Error::new_spanned(declared, format!("{name:?} is not a valid bucket name; use {rule}"))),
        None => Err(Error::new_spanned(
            model,
            format!("`{name}` is not a valid bucket name; set one with `bucket = \"..\"` ({rule})"),
        )),
    }
}

fn number(literal: &LitInt, setting: &str, maximum: u8) -> Result<u8> {
    match literal.base10_parse::<u8>() {
        Ok(number) if (1..=maximum).contains(&number) => Ok(number),
        _ => Err(Error::new_spanned(
            literal,
            format!("`{setting} = {literal}` is out of range; use a number from 1 to {maximum}"),
        )),
    }
}

fn ttl(literal: &LitStr) -> Result<Duration> {
    let ttl = units::duration(&literal.value()).map_err(|message| Error::new_spanned(literal, message))?;
    if ttl < Duration::from_millis(100) || i64::try_from(ttl.as_nanos()).is_err() {
        return Err(Error::new_spanned(
            literal,
            "`ttl` is out of range; use 100ms to 292 years, or omit it for values that never expire",
        ));
    }
    Ok(ttl)
}

fn limit_markers(literal: &LitStr) -> Result<Duration> {
    if literal.value() == "off" {
        return Ok(Duration::ZERO);
    }
    let lifetime = units::duration(&literal.value()).map_err(|message| Error::new_spanned(literal, message))?;
    if lifetime < Duration::from_secs(1) || i64::try_from(lifetime.as_nanos()).is_err() {
        return Err(Error::new_spanned(literal, "`limit_markers` is out of range; use 1s to 292 years, or `\"off\"`"));
    }
    Ok(lifetime)
}

fn rollups(literal: &LitBool, attrs: &Container) -> Result<bool> {
    let has_markers = attrs.limit_markers.as_ref().is_some_and(|markers| markers.value() != "off");
    if !literal.value && has_markers {
        return Err(Error::new_spanned(
            literal,
            "`limit_markers` requires rollups; remove `rollups = false`, or set `limit_markers = \"off\"`",
        ));
    }
    Ok(literal.value)
}

fn size(literal: &Lit) -> Result<u64> {
    match literal {
        Lit::Str(text) => units::size(&text.value()).map_err(|message| Error::new_spanned(literal, message)),
        Lit::Int(number) => {
            number.base10_parse().map_err(|_| Error::new_spanned(literal, format!("invalid size; {}", units::SIZE)))
        }
        _ => Err(Error::new_spanned(literal, format!("invalid size; {}", units::SIZE))),
    }
}

fn max_value_size(literal: &Lit) -> Result<u32> {
    let bytes = i32::try_from(size(literal)?).unwrap_or(0);
    match u32::try_from(bytes) {
        Ok(bytes) if bytes > 0 => Ok(bytes),
        _ => Err(Error::new_spanned(literal, "`max_value_size` is out of range; use 1 byte to 2 GiB - 1")),
    }
}

fn max_bytes(literal: &Lit) -> Result<u64> {
    let bytes = size(literal)?;
    if bytes == 0 || i64::try_from(bytes).is_err() {
        return Err(Error::new_spanned(literal, "`max_bytes` is out of range; use 1 byte to 8 EiB - 1"));
    }
    Ok(bytes)
}

fn storage(literal: &LitStr) -> Result<Storage> {
    match &*literal.value() {
        "file" => Ok(Storage::File),
        "memory" => Ok(Storage::Memory),
        other => {
            let suggestion = names::suggest(other, ["file", "memory"]);
            Err(Error::new_spanned(literal, format!("unknown storage `{other}`; {suggestion}")))
        }
    }
}

fn write_epochs(literal: &LitStr) -> Result<WriteEpochs> {
    match &*literal.value() {
        "open" => Ok(WriteEpochs::Open),
        "closed" => Ok(WriteEpochs::Closed),
        other => {
            let suggestion = names::suggest(other, ["open", "closed"]);
            Err(Error::new_spanned(literal, format!("unknown write epochs `{other}`; {suggestion}")))
        }
    }
}
