//! The attributes of indexes: `index` and `unique`, on a field or on the struct.

use proc_macro2::TokenStream;
use syn::ext::IdentExt;
use syn::parse::ParseStream;
use syn::{Error, ExprPath, Ident, Lit, LitStr, Result, Token, token};

use crate::attr;
use crate::names;

/// The options of `index(..)` and `unique(..)` on a field.
const OPTIONS: [&str; 5] = ["name", "by", "with", "hash", "eventual"];

/// `index`, `index(..)`, `unique` or `unique(..)`, on a field or on the struct.
pub(crate) struct Attribute {
    /// `index` or `unique`.
    pub(crate) ident: Ident,
    pub(crate) name: Option<LitStr>,
    pub(crate) by: Option<(By, Lit)>,
    pub(crate) with: Option<ExprPath>,
    pub(crate) hash: Option<Ident>,
    pub(crate) eventual: Option<Ident>,
    /// The names and templates of compound indexes, on the struct.
    pub(crate) compound: Vec<(Ident, LitStr)>,
}

/// The finest level of an index that can be searched by range.
#[derive(Clone, Copy)]
pub(crate) enum By {
    Year,
    Month,
    Day,
    Hour,
    PowerOfTen(usize),
}

impl By {
    fn parse(literal: &Lit) -> Result<Self> {
        const EXPECTED: &str = "`by` expects `\"year\"`, `\"month\"`, `\"day\"`, `\"hour\"`, or a power of ten for an integer; write `by = 100`";
        let error = || Error::new_spanned(literal, EXPECTED);
        match literal {
            Lit::Str(text) => match &*text.value() {
                "year" => Ok(Self::Year),
                "month" => Ok(Self::Month),
                "day" => Ok(Self::Day),
                "hour" => Ok(Self::Hour),
                _ => Err(error()),
            },
            Lit::Int(number) => {
                let digits = number.base10_digits();
                let zeros = digits.strip_prefix('1').filter(|zeros| zeros.bytes().all(|digit| digit == b'0'));
                zeros.map(|zeros| Self::PowerOfTen(zeros.len())).ok_or_else(error)
            }
            _ => Err(error()),
        }
    }
}

impl Attribute {
    /// Reads the options in parentheses, if there are any.
    pub(crate) fn read(ident: &Ident, input: ParseStream, is_of_field: bool) -> Result<Self> {
        let mut found = Self {
            ident: ident.clone(),
            name: None,
            by: None,
            with: None,
            hash: None,
            eventual: None,
            compound: Vec::new(),
        };
        if !input.peek(token::Paren) {
            return match (is_of_field, input.is_empty() || input.peek(Token![,])) {
                (true, true) => Ok(found),
                (true, false) => Err(Error::new_spanned(
                    ident,
                    format!("`{ident}` takes options in parentheses; write `#[kv({ident})]`"),
                )),
                (false, _) => Err(Error::new_spanned(
                    ident,
                    format!(
                        "`{ident}` on a struct names the fields; write `{ident}(by_name = \"{{first}}.{{second}}\")`, \
                         or mark a field with `#[kv({ident})]`"
                    ),
                )),
            };
        }
        let content;
        syn::parenthesized!(content in input);
        if let Err(error) = found.options(&content, is_of_field) {
            // The rest is not another mistake.
            content.parse::<TokenStream>()?;
            return Err(error);
        }
        if !is_of_field && found.compound.is_empty() {
            let message = format!("`{ident}` names no fields; write `{ident}(by_name = \"{{first}}.{{second}}\")`");
            return Err(Error::new_spanned(ident, message));
        }
        Ok(found)
    }

    fn options(&mut self, input: ParseStream, is_of_field: bool) -> Result<()> {
        while !input.is_empty() {
            let name = input.call(Ident::parse_any)?;
            if is_of_field {
                self.option(&name, input)?
            } else {
                self.compound(&name, input)?
            }
            if !input.is_empty() && !input.peek(Token![,]) {
                return Err(input.error("expected `,` between options"));
            }
            input.parse::<Option<Token![,]>>()?;
        }
        Ok(())
    }

    fn option(&mut self, name: &Ident, input: ParseStream) -> Result<()> {
        match &*name.to_string() {
            "name" => {
                attr::set_once(&mut self.name, name, || attr::value(input, name, "a name; write `name = \"email\"`"))
            }
            "by" => attr::set_once(&mut self.by, name, || {
                let literal = attr::value(input, name, "a unit of time or a power of ten; write `by = \"day\"`")?;
                Ok((By::parse(&literal)?, literal))
            }),
            "with" => attr::set_once(&mut self.with, name, || {
                attr::value(input, name, "the path of a function; write `with = lower_case`")
            }),
            "hash" => attr::set_once(&mut self.hash, name, || switch(input, name)),
            "eventual" => attr::set_once(&mut self.eventual, name, || switch(input, name)),
            other => Err(unknown(name, names::suggest(other, OPTIONS))),
        }
    }

    fn compound(&mut self, name: &Ident, input: ParseStream) -> Result<()> {
        match (&*name.to_string(), input.peek(Token![=])) {
            ("hash", false) => attr::set_once(&mut self.hash, name, || switch(input, name)),
            ("eventual", false) => attr::set_once(&mut self.eventual, name, || switch(input, name)),
            (_, true) => {
                let template = attr::value(input, name, "a template; write `by_role = \"{team}.{role}\"`")?;
                self.compound.push((name.clone(), template));
                Ok(())
            }
            (other, false) => Err(unknown(name, names::suggest(other, ["hash", "eventual"]))),
        }
    }
}

/// Reads an option without a value.
fn switch(input: ParseStream, name: &Ident) -> Result<Ident> {
    match input.is_empty() || input.peek(Token![,]) {
        true => Ok(name.clone()),
        false => Err(Error::new_spanned(name, format!("`{name}` takes no value; remove the value"))),
    }
}

fn unknown(name: &Ident, suggestion: String) -> Error {
    Error::new_spanned(name, format!("unknown option `{name}`; {suggestion}"))
}
