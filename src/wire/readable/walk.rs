//! Reads a message by its schema and tells a sink what is in it.

use bytes::Bytes;

use super::batch::tell_batches;
use super::schema::{Field, Kind, Schema};
use super::sink::{Bracket, Sink, Value};
use super::{Detail, Message};
use crate::wire::error::{Fault, Step};
use crate::wire::{ApiKey, DecodeErrorKind, Reader};

/// Byte fields that are secrets, wherever they occur: SASL tokens, SCRAM credentials, delegation tokens.
const SECRETS: &[&str] = &["authBytes", "salt", "saltedPassword", "hmac"];

/// Settings with such names hold secrets: passwords, and what Kafka declares as such.
const SECRET_SETTINGS: &[&str] = &["password", "passphrase", "secret", "jaas", "keystore.key", "certificate"];

type Result<T = (), E = Fault<DecodeErrorKind>> = std::result::Result<T, E>;

/// A way through one message.
pub(super) struct Walk<'s> {
    schema: &'static Schema,
    version: i16,
    detail: Detail,
    sink: &'s mut dyn Sink,
    /// The last `name` was that of a setting whose value is a secret.
    secret: bool,
}

impl<'s> Walk<'s> {
    pub(super) fn new(schema: &'static Schema, version: i16, detail: Detail, sink: &'s mut dyn Sink) -> Self {
        Self { schema, version, detail, sink, secret: false }
    }

    /// The whole message.
    pub(super) fn message(&mut self, r: &mut Reader) -> Result {
        self.structure(r, self.schema.fields)
    }

    fn structure(&mut self, r: &mut Reader, fields: &'static [Field]) -> Result {
        self.sink.open(Bracket::Struct);
        let version = self.version;
        let present = fields.iter().filter(|field| field.versions.contains(version));
        for field in present.clone().filter(|field| field.tag.is_none()) {
            self.field(r, field)?;
        }
        if self.schema.is_flexible(version) {
            r.tagged(|r, tag| {
                let known = present.clone().find(|field| field.tag == Some(tag));
                match known {
                    Some(field) => self.field(r, field)?,
                    None if self.detail == Detail::Full => {
                        self.sink.name(&format!("unknownTag{tag}"));
                        self.sink.value(Value::Bytes(&r.rest()));
                    }
                    None => {}
                }
                Ok(known.is_some())
            })?;
        }
        self.sink.close(Bracket::Struct);
        Ok(())
    }

    fn field(&mut self, r: &mut Reader, field: &'static Field) -> Result {
        let result = if field.array { self.array(r, field) } else { self.single(r, field) };
        result.map_err(|fault| fault.within(Step::Field(field.name)))
    }

    fn compact(&self, field: &Field) -> bool {
        self.schema.is_flexible(self.version) && !field.classic
    }

    fn array(&mut self, r: &mut Reader, field: &'static Field) -> Result {
        self.sink.name(field.name);
        // Every value takes a byte at least.
        let Some(count) = r.array_len(self.compact(field), 1)? else {
            return self.null(field);
        };
        self.sink.open(Bracket::Array);
        for index in 0..count {
            self.value(r, field, false).map_err(|fault| fault.within(Step::Index(index)))?;
        }
        self.sink.close(Bracket::Array);
        Ok(())
    }

    fn null(&mut self, field: &Field) -> Result {
        if !field.is_nullable(self.version) {
            return Err(DecodeErrorKind::UnexpectedNull.into());
        }
        self.sink.value(Value::Null);
        Ok(())
    }

    fn single(&mut self, r: &mut Reader, field: &'static Field) -> Result {
        if let Kind::Records = field.kind {
            return self.records(r, field);
        }
        self.sink.name(field.name);
        self.value(r, field, field.is_nullable(self.version))
    }

    /// A value, or one element of an array.
    fn value(&mut self, r: &mut Reader, field: &'static Field, nullable: bool) -> Result {
        let value = match field.kind {
            Kind::Bool => Value::Bool(r.bool()?),
            Kind::Int8 => Value::Int(r.i8()?.into()),
            Kind::Int16 => {
                let number = r.i16()?;
                if field.name == "requestApiKey" && self.detail == Detail::Full {
                    self.api(ApiKey(number));
                    return Ok(());
                }
                Value::Int(number.into())
            }
            Kind::Uint16 => Value::Int(r.u16()?.into()),
            Kind::Int32 => Value::Int(r.i32()?.into()),
            Kind::Uint32 => Value::Int(r.u32()?.into()),
            Kind::Int64 => Value::Int(r.i64()?),
            Kind::Float64 => Value::Float(r.f64()?),
            Kind::Uuid => Value::Uuid(r.uuid()?),
            Kind::Struct(_) if nullable && r.i8()? < 0 => Value::Null,
            Kind::Struct(fields) => return self.structure(r, fields),
            Kind::Str => return self.str(r, field, nullable),
            Kind::Bytes | Kind::Records => return self.bytes(r, field, nullable),
        };
        self.sink.value(value);
        Ok(())
    }

    /// The key of an API with its name as Kafka's request log has it.
    fn api(&mut self, key: ApiKey) {
        self.sink.value(Value::Int(key.0.into()));
        let Some(name) = key.name() else { return };
        let mut constant = String::new();
        for letter in name.chars() {
            if letter.is_ascii_uppercase() && !constant.is_empty() {
                constant.push('_');
            }
            constant.push(letter.to_ascii_uppercase());
        }
        self.sink.name("requestApiKeyName");
        self.sink.value(Value::Str(&constant));
    }

    fn str(&mut self, r: &mut Reader, field: &Field, nullable: bool) -> Result {
        let compact = self.compact(field);
        let text = if nullable { r.nullable_str(compact)? } else { Some(r.str(compact)?) };
        if field.name == "name" {
            let name = text.as_deref().unwrap_or_default().to_ascii_lowercase();
            self.secret = SECRET_SETTINGS.iter().any(|secret| name.contains(secret));
        }
        self.sink.value(match &text {
            None => Value::Null,
            Some(_) if self.secret && field.name == "value" => Value::Hidden,
            Some(text) => Value::Str(text),
        });
        Ok(())
    }

    fn bytes(&mut self, r: &mut Reader, field: &Field, nullable: bool) -> Result {
        let compact = self.compact(field);
        let bytes = if nullable { r.nullable_bytes(compact)? } else { Some(r.bytes(compact)?) };
        match bytes {
            None => self.sink.value(Value::Null),
            Some(_) if SECRETS.contains(&field.name) => self.sink.value(Value::Hidden),
            Some(bytes) if self.detail == Detail::Full && self.group_protocol(field, &bytes) => {}
            Some(bytes) => self.sink.value(Value::Bytes(&bytes)),
        }
        Ok(())
    }

    /// What members of classic consumer groups tell each other. Groups of other kinds put what they like into the same
    /// fields: false for what is not the consumer protocol.
    fn group_protocol(&mut self, field: &Field, bytes: &Bytes) -> bool {
        let (schema, name) = match field.name {
            "metadata" | "memberMetadata" => ("ConsumerProtocolSubscription", "subscription"),
            "assignment" | "memberAssignment" => ("ConsumerProtocolAssignment", "assignment"),
            _ => return false,
        };
        let Some((version, message)) = Schema::named(schema).and_then(|s| Message::versioned(s, bytes))
        else {
            return false;
        };
        self.sink.open(Bracket::Struct);
        self.sink.name("version");
        self.sink.value(Value::Int(version.into()));
        self.sink.name(name);
        message.tell(self.detail, self.sink);
        self.sink.close(Bracket::Struct);
        true
    }

    fn records(&mut self, r: &mut Reader, field: &'static Field) -> Result {
        match (r.nullable_bytes(self.compact(field))?, self.detail) {
            (None, _) => {
                self.sink.name(field.name);
                self.null(field)?;
            }
            (Some(bytes), Detail::Kafka) => {
                self.sink.name("recordsSizeInBytes");
                self.sink.value(Value::Int(bytes.len() as i64));
            }
            (Some(bytes), Detail::Full) => {
                self.sink.name(field.name);
                tell_batches(bytes, self.sink);
            }
        }
        Ok(())
    }
}
