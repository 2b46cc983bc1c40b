//! Pairs of shapes of any kind.

use super::kinds::reads;
use super::structs::{compare_enums, compare_structs};
use super::walk::{Env, Walk};
use crate::schema::report::{Effect, Verdict};
use crate::schema::shape::Shape;

/// The nesting limit of a comparison. Two recursive shapes can nest deeper together than each alone.
const MAX_LEVELS: usize = 150;

/// The largest number of compared pairs.
const MAX_PAIRS: usize = 100_000;

impl Walk {
    /// Compares two shapes.
    pub(super) fn compare<'a>(
        &mut self,
        stored: &'a Shape,
        stored_env: &Env<'a, '_>,
        program: &'a Shape,
        program_env: &Env<'a, '_>,
    ) {
        let (stored, stored_env) = stored_env.resolve(stored);
        let (program, program_env) = program_env.resolve(program);
        let address = |shape: &Shape| std::ptr::from_ref(shape).addr();
        if !self.pairs.insert((address(stored), address(program), self.ignored)) {
            return;
        }
        if self.levels >= MAX_LEVELS || self.pairs.len() > MAX_PAIRS {
            let effect = Effect::new(Verdict::DataDecides, "the shapes are too complex for a comparison");
            return self.add_pair(stored, program, effect.clone(), effect);
        }
        self.levels += 1;
        self.compare_kinds(stored, stored_env, program, program_env);
        self.levels -= 1;
    }

    fn compare_kinds<'a>(
        &mut self,
        stored: &'a Shape,
        stored_env: &Env<'a, '_>,
        program: &'a Shape,
        program_env: &Env<'a, '_>,
    ) {
        let (in_stored, in_program) = (&stored_env.inside(stored), &program_env.inside(program));
        let were_optional = std::mem::take(&mut self.are_optional);
        match (stored, program) {
            (Shape::Option(one), Shape::Option(two)) => {
                self.are_optional = true;
                self.compare(one, in_stored, two, in_program);
            }
            (Shape::Seq(one), Shape::Seq(two)) => {
                self.enter("[]", |walk| walk.compare(one, in_stored, two, in_program));
            }
            (Shape::Map(old_key, old_value), Shape::Map(new_key, new_value)) => {
                let was_key = std::mem::replace(&mut self.is_key, true);
                self.enter("{key}", |walk| walk.compare(old_key, in_stored, new_key, in_program));
                self.is_key = was_key;
                self.enter("{}", |walk| walk.compare(old_value, in_stored, new_value, in_program));
            }
            (Shape::Tuple(old), Shape::Tuple(new)) if old.len() == new.len() => {
                for (at, (one, two)) in old.iter().zip(new).enumerate() {
                    self.enter(&at.to_string(), |walk| walk.compare(one, in_stored, two, in_program));
                }
            }
            (Shape::Tuple(_), Shape::Tuple(_)) => {
                let effect = Effect::new(Verdict::No, "tuples of other lengths cannot be read");
                self.add_pair(stored, program, effect.clone(), effect);
            }
            (Shape::Struct(one), Shape::Struct(two)) => compare_structs(self, (one, in_stored), (two, in_program)),
            (Shape::Enum(one), Shape::Enum(two)) if one.tag != two.tag => {
                let effect = Effect::new(Verdict::No, "the name of the variant is in another place");
                self.add_pair(stored, program, effect.clone(), effect);
            }
            (Shape::Enum(one), Shape::Enum(two)) => compare_enums(self, (one, in_stored), (two, in_program)),
            (Shape::Option(inner), other) if !matches!(other, Shape::Open | Shape::Unit) => {
                if !were_optional {
                    let backward = Effect::new(Verdict::No, "absent values cannot be read");
                    self.add_pair(stored, program, backward, Effect::yes());
                }
                self.are_optional = true;
                self.compare(inner, in_stored, program, program_env);
            }
            (other, Shape::Option(inner)) if !matches!(other, Shape::Open | Shape::Unit) => {
                if !were_optional {
                    let forward = Effect::new(Verdict::No, "absent values cannot be read");
                    self.add_pair(stored, program, Effect::yes(), forward);
                }
                self.are_optional = true;
                self.compare(stored, stored_env, inner, in_program);
            }
            _ if stored == program => {}
            _ => {
                let (backward, forward) = (reads(stored, program, self.is_key), reads(program, stored, self.is_key));
                self.add_pair(stored, program, backward, forward);
            }
        }
    }
}
