//! Pairs of structs and of enums.

use std::collections::{BTreeMap, BTreeSet};

use super::walk::{Env, Walk};
use crate::schema::report::{Effect, Finding, Verdict};
use crate::schema::shape::{Enum, Field, Presence, Shape, Struct, Variant};

/// A field with its name.
type Named<'a> = (&'a str, &'a Field);

fn accepts((name, field): Named<'_>, written: &str) -> bool {
    name == written || field.aliases.contains(written)
}

pub(super) fn compare_structs<'a>(
    walk: &mut Walk,
    (stored, stored_env): (&'a Struct, &Env<'a, '_>),
    (program, program_env): (&'a Struct, &Env<'a, '_>),
) {
    for (old, new) in pair_fields(stored, program) {
        let backward = read_field(old, new, program.deny_unknown, Side::Backward);
        let forward = read_field(new, old, stored.deny_unknown, Side::Forward);
        let Some((name, _)) = new.or(old) else { continue };
        let lacks_default =
            backward.verdict == Verdict::No && new.is_some_and(|new| new.1.presence != Presence::Optional);
        walk.enter(name, |walk| {
            let (mut there, here) = (describe(old), describe(new));
            if let (Some(old), Some(new)) = (old, new)
                && old.0 != new.0
            {
                there = format!("`{}`: {there}", old.0);
            }
            let differs = old.zip(new).is_none_or(|(old, new)| {
                old.0 != new.0 || old.1.presence != new.1.presence || is_option(&old.1.shape) != is_option(&new.1.shape)
            });
            if differs {
                walk.add(Finding {
                    path: String::new(),
                    stored: there,
                    program: here,
                    backward,
                    forward,
                    lacks_default,
                });
            }
            if let (Some(old), Some(new)) = (old, new) {
                let ignored = walk.ignored;
                walk.ignored = (ignored.0 || !accepts(new, old.0), ignored.1 || !accepts(old, new.0));
                compare_values(walk, (&old.1.shape, stored_env), (&new.1.shape, program_env));
                walk.ignored = ignored;
            }
        });
    }
}

/// Returns all fields of both structs, in pairs with a common name.
fn pair_fields<'a>(stored: &'a Struct, program: &'a Struct) -> Vec<(Option<Named<'a>>, Option<Named<'a>>)> {
    let mut added: BTreeMap<_, _> = program.fields.iter().map(|(name, field)| (name.as_str(), field)).collect();
    let aliases = program.fields.iter().flat_map(|(name, field)| field.aliases.iter().map(move |alias| (alias, name)));
    let aliases: BTreeMap<&str, &str> = aliases.map(|(alias, name)| (alias.as_str(), name.as_str())).collect();
    let stored_fields = stored.fields.iter().map(|(name, field)| (name.as_str(), field));
    // A field of the same name goes before a field with an alias.
    let (same, renamed): (Vec<Named<'a>>, Vec<_>) =
        stored_fields.partition(|(name, _)| program.fields.contains_key(*name));
    let mut pairs = Vec::new();
    for old in same.into_iter().chain(renamed) {
        let names = [old.0].into_iter().chain(aliases.get(old.0).copied());
        let mut names = names.chain(old.1.aliases.iter().map(String::as_str));
        pairs.push((Some(old), names.find_map(|name| added.remove_entry(name))));
    }
    pairs.extend(added.into_iter().map(|new| (None, Some(new))));
    pairs
}

/// Compares the values of a field. The finding of the field covers absent values.
fn compare_values<'a>(
    walk: &mut Walk,
    (stored, stored_env): (&'a Shape, &Env<'a, '_>),
    (program, program_env): (&'a Shape, &Env<'a, '_>),
) {
    let (in_stored, in_program) = (&stored_env.inside(stored), &program_env.inside(program));
    walk.are_optional = is_option(stored) || is_option(program);
    match (stored, program) {
        (Shape::Option(stored), Shape::Option(program)) => walk.compare(stored, in_stored, program, in_program),
        (Shape::Option(_), Shape::Unit) | (Shape::Unit, Shape::Option(_)) => {
            walk.compare(stored, stored_env, program, program_env);
        }
        (Shape::Option(stored), program) => walk.compare(stored, in_stored, program, program_env),
        (stored, Shape::Option(program)) => walk.compare(stored, stored_env, program, in_program),
        _ => walk.compare(stored, stored_env, program, program_env),
    }
}

fn is_option(shape: &Shape) -> bool {
    matches!(shape, Shape::Option(_))
}

fn describe(field: Option<Named<'_>>) -> String {
    let Some((_, field)) = field else { return "-".to_owned() };
    match (&field.shape, field.presence) {
        (Shape::Option(inner), Presence::Optional) => format!("{inner}, optional"),
        (shape, Presence::Optional) => format!("{shape}, with a default"),
        (shape, Presence::Required) => format!("{shape}, required"),
        (shape, Presence::Unknown) => shape.to_string(),
    }
}

/// The direction of an effect, for its wording.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    /// The program reads stored records.
    Backward,
    /// Programs of the stored schema read records of this program.
    Forward,
}

/// Returns the effect of the presence of a field on a reader.
fn read_field(writer: Option<Named<'_>>, reader: Option<Named<'_>>, denies_unknown: bool, side: Side) -> Effect {
    let records = match side {
        Side::Backward => "stored records",
        Side::Forward => "new records",
    };
    let accepted = writer.zip(reader).is_some_and(|(writer, reader)| accepts(reader, writer.0));
    let mut effect = Effect::yes();
    if let Some((name, _)) = writer.filter(|_| !accepted) {
        effect = effect.and(match (denies_unknown, side) {
            (true, Side::Backward) => {
                Effect::new(Verdict::No, format!("this program denies the unknown field `{name}`"))
            }
            (true, Side::Forward) => Effect::new(Verdict::No, format!("programs without `{name}` deny unknown fields")),
            (false, Side::Backward) => Effect::new(Verdict::Yes, format!("this program drops `{name}` when it writes")),
            (false, Side::Forward) => {
                Effect::new(Verdict::Yes, format!("programs without `{name}` drop it when they write"))
            }
        });
    }
    let Some((name, read)) = reader else { return effect };
    let written = writer.filter(|_| accepted).map(|(_, field)| field);
    let missing = match (written.map(|field| field.presence), read.presence) {
        (_, Presence::Optional) | (Some(Presence::Required), _) => Verdict::Yes,
        (Some(Presence::Unknown), Presence::Unknown) => Verdict::Yes,
        (_, Presence::Unknown) | (Some(Presence::Unknown), _) => Verdict::DataDecides,
        (_, Presence::Required) => Verdict::No,
    };
    let is_null = written.is_some_and(|field| is_option(&field.shape))
        && !is_option(&read.shape)
        && !matches!(read.shape, Shape::Open | Shape::Unit);
    let missing = if is_null { Verdict::No } else { missing };
    match missing {
        Verdict::Yes => effect,
        verdict => effect.and(Effect::new(verdict, format!("{records} without `{name}` cannot be read"))),
    }
}

pub(super) fn compare_enums<'a>(
    walk: &mut Walk,
    (stored, stored_env): (&'a Enum, &Env<'a, '_>),
    (program, program_env): (&'a Enum, &Env<'a, '_>),
) {
    let (removed, backward) = unread(stored, program, "this program");
    let (added, forward) = unread(program, stored, "programs of the stored schema");
    if !removed.is_empty() || !added.is_empty() {
        let quote = |sign: char| move |name: &&str| format!("{sign} `{name}`");
        let changes: Vec<_> = added.iter().map(quote('+')).chain(removed.iter().map(quote('-'))).collect();
        walk.add(Finding {
            path: String::new(),
            stored: format!("{} variants", stored.variants.len()),
            program: changes.join(", "),
            backward,
            forward,
            lacks_default: false,
        });
    }
    let program = by_name(program);
    for (name, old) in &stored.variants {
        let mut names = [name].into_iter().chain(&old.aliases);
        let Some((new_name, new)) = names.find_map(|name| program.get(name.as_str())) else { continue };
        walk.enter(new_name, |walk| match (&old.content, &new.content) {
            (None, None) => {}
            (Some(old), Some(new)) => walk.compare(old, stored_env, new, program_env),
            (old, new) => walk.add(Finding {
                path: String::new(),
                stored: describe_variant(old.as_ref()),
                program: describe_variant(new.as_ref()),
                backward: read_content(old.as_ref(), new.as_ref()),
                forward: read_content(new.as_ref(), old.as_ref()),
                lacks_default: false,
            }),
        });
    }
}

fn names<'a>(name: &'a str, variant: &'a Variant) -> BTreeSet<&'a str> {
    variant.aliases.iter().map(String::as_str).chain([name]).collect()
}

/// Returns the variants by all their names.
fn by_name(it: &Enum) -> BTreeMap<&str, (&str, &Variant)> {
    let variants = || it.variants.iter().map(|(name, variant)| (name.as_str(), variant));
    let aliases = variants().flat_map(|(name, variant)| variant.aliases.iter().map(move |it| (it, (name, variant))));
    let aliases = aliases.map(|(alias, variant)| (alias.as_str(), variant));
    aliases.chain(variants().map(|(name, variant)| (name, (name, variant)))).collect()
}

/// Returns the variants that a reader does not know, and the effect.
fn unread<'a>(writer: &'a Enum, reader: &Enum, who: &str) -> (Vec<&'a str>, Effect) {
    let known: BTreeSet<_> = reader.variants.iter().flat_map(|(name, variant)| names(name, variant)).collect();
    let mut unread = Vec::new();
    let mut effect = Effect::yes();
    for (name, variant) in &writer.variants {
        let names = names(name, variant);
        if names.is_subset(&known) {
            continue;
        }
        unread.push(name.as_str());
        effect = effect.and(if !names.is_disjoint(&known) {
            Effect::new(Verdict::DataDecides, format!("{who} cannot read some names of `{name}`"))
        } else if reader.other && variant.content.is_none() {
            Effect::new(Verdict::Yes, format!("{who} read `{name}` as their `#[serde(other)]` variant"))
        } else if variant.content.is_some() {
            Effect::new(Verdict::No, format!("{who} cannot read `{name}`"))
        } else {
            Effect::new(Verdict::No, format!("{who} cannot read `{name}` without `#[serde(other)]`"))
        });
    }
    (unread, effect)
}

fn describe_variant(content: Option<&Shape>) -> String {
    content.map_or("no content".to_owned(), Shape::to_string)
}

fn read_content(writer: Option<&Shape>, reader: Option<&Shape>) -> Effect {
    match (writer, reader) {
        (Some(Shape::Unit | Shape::Option(_) | Shape::Open), None) => {
            Effect::new(Verdict::DataDecides, "only an absent content can be read")
        }
        (Some(_), None) => Effect::new(Verdict::No, "the content cannot be read"),
        (None, Some(_)) => Effect::new(Verdict::No, "the variant cannot be read without content"),
        _ => Effect::yes(),
    }
}
