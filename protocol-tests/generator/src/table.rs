//! The messages as data: `src/wire/messages/schemas.rs`, for code that reads any message by its description. Shares no
//! code with `emit.rs`, so that tests can hold one against the other.

use crate::emit::HEADER;
use crate::model::{Message, Struct};
use crate::schema::{Field, Versions};

/// The file, before formatting.
pub(crate) fn file(messages: &[Message]) -> Result<String, String> {
    let mut rows = String::new();
    for message in messages {
        let root = message.structs.first().ok_or(format!("{} has no structure", message.name))?;
        let flexible = message.flexible.and(root.versions);
        let flexible = if flexible.is_empty() { "i16::MAX".to_owned() } else { flexible.min.to_string() };
        rows += &format!(
            "Schema {{ name: \"{}\", versions: {}, flexible: {flexible}, fields: &[{}] }},\n",
            message.name,
            range(root.versions),
            fields(message, root)?,
        );
    }
    Ok(format!(
        "{HEADER}//! The messages as data.\n\nuse crate::wire::VersionRange;\n\
         use crate::wire::readable::schema::Kind::*;\nuse crate::wire::readable::schema::{{Schema, field}};\n\n\
         /// In the order of API keys, requests before responses, then headers and the consumer protocol.\n\
         pub(crate) static SCHEMAS: &[Schema] = &[\n{rows}];\n"
    ))
}

fn range(versions: Versions) -> String {
    let max = if versions.max == i16::MAX { "i16::MAX".to_owned() } else { versions.max.to_string() };
    format!("VersionRange::new({}, {max})", versions.min)
}

fn fields(message: &Message, s: &Struct) -> Result<String, String> {
    s.fields.iter().map(|field| row(message, s, field)).collect()
}

fn row(message: &Message, s: &Struct, field: &Field) -> Result<String, String> {
    let error = |what| Err(format!("{}, field {}: {what}", message.name, field.name));
    let (element, array) = field.element();
    let kind = match element {
        "bool" => "Bool".to_owned(),
        "int8" => "Int8".to_owned(),
        "int16" => "Int16".to_owned(),
        "uint16" => "Uint16".to_owned(),
        "int32" => "Int32".to_owned(),
        "uint32" => "Uint32".to_owned(),
        "int64" => "Int64".to_owned(),
        "float64" => "Float64".to_owned(),
        "uuid" => "Uuid".to_owned(),
        "string" => "Str".to_owned(),
        "bytes" => "Bytes".to_owned(),
        "records" => "Records".to_owned(),
        name => match message.structs.iter().find(|s| s.name == name) {
            Some(s) => format!("Struct(&[{}])", fields(message, s)?),
            None => return error("unknown type"),
        },
    };
    // Kafka's name in JSON: the first letter alone becomes small.
    let (first, rest) = field.name.split_at(1);
    let mut row = format!("field(\"{}{rest}\", {kind})", first.to_lowercase());
    if array {
        row += ".array()";
    }
    if field.versions.and(s.versions) != s.versions {
        row += &format!(".only({})", range(field.versions));
    }
    let nullable = field.nullable_versions.and(field.versions).and(s.versions);
    if !nullable.is_empty() {
        row += &format!(".nullable({})", range(field.nullable_versions));
    }
    match field.flexible_versions {
        None => {}
        Some(Versions::NONE) => row += ".classic()",
        Some(_) => return error("flexible versions of its own"),
    }
    match field.tag {
        None => {}
        Some(tag) if field.tagged_versions == field.versions => row += &format!(".tag({tag})"),
        Some(_) => return error("tagged in some of its versions only"),
    }
    Ok(row + ",\n")
}
