//! The shape of every message in every version as one line of text, for tests that write messages without any of the
//! code that is tested.
//!
//! ```text
//! message  name version struct
//! struct   {field:type field:type [tag field:type …]}      the brackets in flexible versions alone
//! type     b i1 i2 u2 i4 u4 i8 f8 id       boolean, integers and floats by size, UUID
//!          s S y Y                         string and bytes, classic and compact
//!          aT AT                           array of T, classic and compact
//!          ?T                              T or null
//! ```

use std::fmt::Write;

use crate::model::{Message, Struct};
use crate::names;
use crate::schema::Field;

/// The lines of `message`.
pub(crate) fn lines(message: &Message) -> String {
    let mut out = String::new();
    let Some(root) = message.structs.first() else { return out };
    for version in root.versions.min..=root.versions.max {
        let _ = writeln!(out, "{} {version} {}", message.name, structure(message, root, version));
    }
    out
}

fn structure(message: &Message, s: &Struct, version: i16) -> String {
    let present = |field: &&Field| field.versions.contains(version);
    let tagged = |field: &&Field| field.tagged_versions.contains(version);
    let mut parts: Vec<String> = Vec::new();
    for field in s.fields.iter().filter(present).filter(|field| !tagged(field)) {
        parts.push(format!("{}:{}", names::snake(&field.name), kind(message, field, version)));
    }
    if message.flexible.contains(version) {
        let mut fields: Vec<&Field> = s.fields.iter().filter(present).filter(tagged).collect();
        fields.sort_by_key(|field| field.tag);
        let fields: Vec<String> = fields
            .iter()
            .map(|field| {
                let tag = field.tag.unwrap_or_default();
                format!("{tag} {}:{}", names::snake(&field.name), kind(message, field, version))
            })
            .collect();
        parts.push(format!("[{}]", fields.join(" ")));
    }
    format!("{{{}}}", parts.join(" "))
}

fn kind(message: &Message, field: &Field, version: i16) -> String {
    let compact = field.flexible_versions.unwrap_or(message.flexible).contains(version);
    let (element, array) = field.element();
    let text = match element {
        "bool" => "b".to_owned(),
        "int8" => "i1".to_owned(),
        "int16" => "i2".to_owned(),
        "uint16" => "u2".to_owned(),
        "int32" => "i4".to_owned(),
        "uint32" => "u4".to_owned(),
        "int64" => "i8".to_owned(),
        "float64" => "f8".to_owned(),
        "uuid" => "id".to_owned(),
        "string" => if compact { "S" } else { "s" }.to_owned(),
        "bytes" | "records" => if compact { "Y" } else { "y" }.to_owned(),
        name => match message.structs.iter().find(|s| s.name == name) {
            Some(s) => structure(message, s, version),
            None => String::new(),
        },
    };
    let null = if field.nullable_versions.contains(version) { "?" } else { "" };
    let array = match (array, compact) {
        (false, _) => "",
        (true, false) => "a",
        (true, true) => "A",
    };
    format!("{null}{array}{text}")
}
