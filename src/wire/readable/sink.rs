//! What is told of a message becomes JSON or text.

use std::fmt::{self, Write};

use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;

use crate::ErrorCode;
use crate::wire::Uuid;

/// What holds other values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bracket {
    Struct,
    Array,
}

/// A value that holds no others.
pub(super) enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Uuid(Uuid),
    Str(&'a str),
    Bytes(&'a [u8]),
    /// A secret.
    Hidden,
}

/// Takes a tree in order: a name before everything in a structure, none in an array.
pub(super) trait Sink {
    fn open(&mut self, bracket: Bracket);
    fn close(&mut self, bracket: Bracket);
    fn name(&mut self, name: &str);
    fn value(&mut self, value: Value<'_>);
}

/// For those who only want to know whether a message can be read.
pub(super) struct Nobody;

impl Sink for Nobody {
    fn open(&mut self, _: Bracket) {}
    fn close(&mut self, _: Bracket) {}
    fn name(&mut self, _: &str) {}
    fn value(&mut self, _: Value<'_>) {}
}

/// JSON as Kafka's converters write it. Keeps the first error of its formatter and writes nothing more.
pub(super) struct Json<'a, 'f> {
    f: &'a mut fmt::Formatter<'f>,
    comma: bool,
    pub(super) result: fmt::Result,
}

impl<'a, 'f> Json<'a, 'f> {
    pub(super) fn new(f: &'a mut fmt::Formatter<'f>) -> Self {
        Self { f, comma: false, result: Ok(()) }
    }

    fn put(&mut self, put: impl FnOnce(&mut fmt::Formatter<'f>) -> fmt::Result) {
        if self.result.is_ok() {
            self.result = put(self.f);
        }
    }

    fn separate(&mut self) {
        if std::mem::replace(&mut self.comma, true) {
            self.put(|f| f.write_char(','));
        }
    }
}

impl Sink for Json<'_, '_> {
    fn open(&mut self, bracket: Bracket) {
        self.separate();
        self.comma = false;
        self.put(|f| f.write_char(if bracket == Bracket::Struct { '{' } else { '[' }));
    }

    fn close(&mut self, bracket: Bracket) {
        self.comma = true;
        self.put(|f| f.write_char(if bracket == Bracket::Struct { '}' } else { ']' }));
    }

    fn name(&mut self, name: &str) {
        self.separate();
        self.comma = false;
        self.put(|f| write!(f, "\"{name}\":"));
    }

    fn value(&mut self, value: Value<'_>) {
        self.separate();
        self.put(|f| match value {
            Value::Null => f.write_str("null"),
            Value::Bool(value) => write!(f, "{value}"),
            Value::Int(value) => write!(f, "{value}"),
            Value::Float(value) if value.is_finite() => write!(f, "{value:?}"),
            Value::Float(value) => write!(f, "\"{}\"", not_finite(value)),
            Value::Uuid(value) => write!(f, "\"{value}\""),
            Value::Str(value) => quote(f, value),
            Value::Bytes(value) => write!(f, "\"{}\"", Base64Display::new(value, &STANDARD)),
            Value::Hidden => f.write_str("\"[hidden]\""),
        });
    }
}

/// What was written within brackets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Inside {
    Nothing,
    /// Lines of their own.
    Lines,
    /// Values on the line of the array's name.
    Values,
}

/// Text for people: one line per value, indented by what it is part of. Keeps the first error as [`Json`] does.
pub(super) struct Text<'a, 'f> {
    f: &'a mut fmt::Formatter<'f>,
    /// What is open, and what was written in it.
    open: Vec<(Bracket, Inside)>,
    /// The next name stays on the line of its dash.
    dash: bool,
    error_code: bool,
    pub(super) result: fmt::Result,
}

impl<'a, 'f> Text<'a, 'f> {
    pub(super) fn new(f: &'a mut fmt::Formatter<'f>) -> Self {
        Self { f, open: Vec::new(), dash: true, error_code: false, result: Ok(()) }
    }

    fn put(&mut self, put: impl FnOnce(&mut fmt::Formatter<'f>) -> fmt::Result) {
        if self.result.is_ok() {
            self.result = put(self.f);
        }
    }

    /// A new line as deep as what is open.
    fn line(&mut self) {
        let width = 2 * (self.open.len() - 1);
        self.put(|f| write!(f, "\n{:width$}", ""));
    }

    /// Notes that something is written within the innermost brackets: what was there before, if they are an array's.
    fn enter(&mut self, what: Inside) -> Option<Inside> {
        let (bracket, inside) = self.open.last_mut()?;
        let before = std::mem::replace(inside, what);
        (*bracket == Bracket::Array).then_some(before)
    }
}

impl Sink for Text<'_, '_> {
    fn open(&mut self, bracket: Bracket) {
        if self.enter(Inside::Lines).is_some() {
            self.line();
            self.put(|f| f.write_str("- "));
            self.dash = true;
        }
        self.open.push((bracket, Inside::Nothing));
    }

    fn close(&mut self, _: Bracket) {
        match self.open.pop() {
            Some((Bracket::Struct, Inside::Nothing)) => self.put(|f| f.write_str(" {}")),
            Some((Bracket::Array, Inside::Nothing)) => self.put(|f| f.write_str(" []")),
            Some((Bracket::Array, Inside::Values)) => self.put(|f| f.write_char(']')),
            _ => {}
        }
        self.dash = false;
    }

    fn name(&mut self, name: &str) {
        self.enter(Inside::Lines);
        if !std::mem::replace(&mut self.dash, false) {
            self.line();
        }
        self.error_code = name == "errorCode";
        self.put(|f| write!(f, "{name}:"));
    }

    fn value(&mut self, value: Value<'_>) {
        let separator = match self.enter(Inside::Values) {
            None => " ",
            Some(Inside::Nothing) => " [",
            Some(_) => ", ",
        };
        let error_code = std::mem::replace(&mut self.error_code, false);
        self.put(|f| f.write_str(separator));
        self.put(|f| match value {
            Value::Null => f.write_str("null"),
            Value::Bool(value) => write!(f, "{value}"),
            Value::Int(code) if error_code => {
                match i16::try_from(code).ok().and_then(|code| ErrorCode(code).name()) {
                    Some(name) => write!(f, "{code} {name}"),
                    None => write!(f, "{code}"),
                }
            }
            Value::Int(value) => write!(f, "{value}"),
            Value::Float(value) if value.is_finite() => write!(f, "{value:?}"),
            Value::Float(value) => f.write_str(not_finite(value)),
            Value::Uuid(value) => write!(f, "{value}"),
            Value::Str(value) => quote(f, value),
            Value::Bytes(value) => match std::str::from_utf8(value) {
                Ok(text)
                    if !text.contains(|letter: char| {
                        letter.is_control() && !matches!(letter, '\n' | '\r' | '\t')
                    }) =>
                {
                    quote(f, text)
                }
                _ => {
                    f.write_str("0x")?;
                    value.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
                }
            },
            Value::Hidden => f.write_str("[hidden]"),
        });
    }
}

/// Java's names, for which JSON has no numbers.
fn not_finite(value: f64) -> &'static str {
    match value {
        f64::INFINITY => "Infinity",
        f64::NEG_INFINITY => "-Infinity",
        _ => "NaN",
    }
}

/// A string of JSON. Control characters are escaped, also those that only terminals mind.
fn quote(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_char('"')?;
    for letter in text.chars() {
        match letter {
            '"' => f.write_str("\\\"")?,
            '\\' => f.write_str("\\\\")?,
            '\n' => f.write_str("\\n")?,
            '\r' => f.write_str("\\r")?,
            '\t' => f.write_str("\\t")?,
            _ if letter.is_control() => write!(f, "\\u{:04x}", u32::from(letter))?,
            _ => f.write_char(letter)?,
        }
    }
    f.write_char('"')
}
