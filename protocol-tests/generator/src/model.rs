//! Definitions resolved for emission: structures with the versions in which they occur, fields with their shapes.

use std::collections::{BTreeMap, BTreeSet};

use crate::schema::{Definition, Field, Versions};

/// A top-level message and its structures, the message itself first.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) name: String,
    /// `request`, `response`, `header` or `data`.
    pub(crate) kind: String,
    pub(crate) flexible: Versions,
    pub(crate) structs: Vec<Struct>,
}

#[derive(Clone, Debug)]
pub(crate) struct Struct {
    pub(crate) name: String,
    /// Versions in which it occurs.
    pub(crate) versions: Versions,
    /// Fields that occur in some of these versions.
    pub(crate) fields: Vec<Field>,
    /// Fewest bytes in any of its versions.
    pub(crate) len_min: usize,
}

impl Message {
    pub(crate) fn new(definition: &Definition, versions: Versions) -> Self {
        let mut resolver = Resolver { definition, order: Vec::new(), found: BTreeMap::new() };
        resolver.add(&definition.name, &definition.fields, versions);
        let mut message = Self {
            name: definition.name.clone(),
            kind: definition.kind.clone(),
            flexible: definition.flexible_versions,
            structs: Vec::new(),
        };
        for name in &resolver.order {
            let (versions, fields) = &resolver.found[name];
            let fields: Vec<Field> =
                fields.iter().filter(|field| !field.versions.and(*versions).is_empty()).cloned().collect();
            message.structs.push(Struct { name: name.clone(), versions: *versions, fields, len_min: 0 });
        }
        let mins: Vec<usize> = message
            .structs
            .iter()
            .map(|s| (s.versions.min..=s.versions.max).map(|v| message.len_at(s, v)).min().unwrap_or(0))
            .collect();
        for (s, len_min) in message.structs.iter_mut().zip(mins) {
            s.len_min = len_min;
        }
        message
    }

    /// Names of the structures below the message itself.
    pub(crate) fn nested(&self) -> BTreeSet<String> {
        self.structs.iter().skip(1).map(|s| s.name.clone()).collect()
    }

    /// Gives structures new names.
    pub(crate) fn rename(&mut self, rename: impl Fn(&str) -> String) {
        let names = self.nested();
        for s in &mut self.structs {
            if names.contains(&s.name) {
                s.name = rename(&s.name);
            }
            for field in &mut s.fields {
                let (element, array) = field.element();
                if names.contains(element) {
                    field.kind = format!("{}{}", if array { "[]" } else { "" }, rename(element));
                }
            }
        }
    }

    /// Fewest bytes of `s` in `version`.
    fn len_at(&self, s: &Struct, version: i16) -> usize {
        let flexible = self.flexible.contains(version);
        let mut len = usize::from(flexible);
        for field in &s.fields {
            if !field.versions.contains(version) || field.tagged_versions.contains(version) {
                continue;
            }
            let compact = field.flexible_versions.unwrap_or(self.flexible).contains(version);
            let (element, array) = field.element();
            len += match element {
                _ if array => {
                    if compact {
                        1
                    } else {
                        4
                    }
                }
                "string" => {
                    if compact {
                        1
                    } else {
                        2
                    }
                }
                "bytes" | "records" => {
                    if compact {
                        1
                    } else {
                        4
                    }
                }
                "bool" | "int8" => 1,
                "int16" | "uint16" => 2,
                "int32" | "uint32" => 4,
                "int64" | "float64" => 8,
                "uuid" => 16,
                _ if field.nullable_versions.contains(version) => 1,
                name => {
                    let inner = self.structs.iter().find(|s| s.name == name);
                    inner.map_or(0, |inner| self.len_at(inner, version))
                }
            };
        }
        len
    }
}

struct Resolver<'a> {
    definition: &'a Definition,
    order: Vec<String>,
    found: BTreeMap<String, (Versions, &'a [Field])>,
}

impl<'a> Resolver<'a> {
    fn add(&mut self, name: &str, fields: &'a [Field], versions: Versions) {
        match self.found.get_mut(name) {
            Some((known, _)) => *known = known.or(versions),
            None => {
                self.order.push(name.to_owned());
                self.found.insert(name.to_owned(), (versions, fields));
            }
        }
        for field in fields {
            let versions = field.versions.and(versions);
            if versions.is_empty() {
                continue;
            }
            let (element, _) = field.element();
            let common = self.definition.common_structs.iter().find(|s| s.name == element);
            if let Some(common) = common {
                self.add(element, &common.fields, versions);
            } else if !field.fields.is_empty() {
                self.add(element, &field.fields, versions);
            }
        }
    }
}
