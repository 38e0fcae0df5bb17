//! The description of the messages, resolved for one version each.

use carafe::wire::readable::schema::{self, Kind, Schema};

/// One message in one version.
#[derive(Debug)]
pub struct Shape {
    /// Kafka's name, such as `MetadataRequest`.
    pub name: &'static str,
    /// The version.
    pub version: i16,
    /// The message as a structure.
    pub root: Type,
}

/// A type in one version.
#[allow(missing_docs)]
#[derive(Debug)]
pub enum Type {
    Bool,
    /// A number or id of so many bytes.
    Fixed(usize),
    Str {
        compact: bool,
    },
    Bytes {
        compact: bool,
    },
    Array {
        compact: bool,
        element: Box<Self>,
    },
    Struct(Struct),
    Nullable(Box<Self>),
}

/// A structure in one version.
#[derive(Debug)]
pub struct Struct {
    /// The fields that are not tagged, in the order of the wire.
    pub fields: Vec<Field>,
    /// The tagged fields by ascending tag; `None` in versions without.
    pub tagged: Option<Vec<(u32, Field)>>,
}

/// A field in one version.
#[derive(Debug)]
pub struct Field {
    /// carafe's name: `topic_id`.
    pub name: String,
    /// Its type.
    pub shape: Type,
}

/// All messages in all versions.
pub fn shapes() -> Vec<Shape> {
    let versions =
        |schema: &'static Schema| (schema.versions.min..=schema.versions.max).map(move |v| (schema, v));
    let all = Schema::all().iter().flat_map(versions);
    all.map(|(schema, version)| {
        let flexible = schema.is_flexible(version);
        let root = Type::Struct(structure(schema.fields, version, flexible));
        Shape { name: schema.name, version, root }
    })
    .collect()
}

fn structure(fields: &[schema::Field], version: i16, flexible: bool) -> Struct {
    let mut shape = Struct { fields: Vec::new(), tagged: flexible.then(Vec::new) };
    for field in fields.iter().filter(|field| field.versions.contains(version)) {
        let resolved = Field { name: snake(field.name), shape: kind(field, version, flexible) };
        match (field.tag, &mut shape.tagged) {
            (Some(tag), Some(tagged)) => tagged.push((tag, resolved)),
            _ => shape.fields.push(resolved),
        }
    }
    if let Some(tagged) = &mut shape.tagged {
        tagged.sort_by_key(|(tag, _)| *tag);
    }
    shape
}

fn kind(field: &schema::Field, version: i16, flexible: bool) -> Type {
    let compact = flexible && !field.classic;
    let mut shape = match field.kind {
        Kind::Bool => Type::Bool,
        Kind::Int8 => Type::Fixed(1),
        Kind::Int16 | Kind::Uint16 => Type::Fixed(2),
        Kind::Int32 | Kind::Uint32 => Type::Fixed(4),
        Kind::Int64 | Kind::Float64 => Type::Fixed(8),
        Kind::Uuid => Type::Fixed(16),
        Kind::Str => Type::Str { compact },
        Kind::Bytes | Kind::Records => Type::Bytes { compact },
        Kind::Struct(fields) => Type::Struct(structure(fields, version, flexible)),
    };
    if field.array {
        shape = Type::Array { compact, element: Box::new(shape) };
    }
    if field.is_nullable(version) { Type::Nullable(Box::new(shape)) } else { shape }
}

/// `topicId` as `topic_id`: an underscore before each capital.
fn snake(name: &str) -> String {
    let mut out = String::new();
    for letter in name.replace("kRaft", "kraft").chars() {
        if letter.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(letter.to_ascii_lowercase());
    }
    out
}
