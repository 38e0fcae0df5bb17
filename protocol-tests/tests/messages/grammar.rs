//! The committed grammar, parsed. Its notation is explained in the generator's `grammar.rs`.

/// One message in one version.
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    pub(crate) version: i16,
    pub(crate) root: Type,
}

pub(crate) enum Type {
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

pub(crate) struct Struct {
    pub(crate) fields: Vec<Field>,
    /// `None` in versions without tagged fields.
    pub(crate) tagged: Option<Vec<(u32, Field)>>,
}

pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) shape: Type,
}

/// All messages in all versions.
pub(crate) fn shapes() -> Vec<Shape> {
    let text = include_str!("grammar.txt");
    text.lines().filter(|line| !line.starts_with('#')).map(shape).collect()
}

fn shape(line: &'static str) -> Shape {
    let mut parts = line.splitn(3, ' ');
    let mut part = || parts.next().expect("three parts");
    let (name, version, rest) = (part(), part(), part());
    let mut parser = Parser { rest };
    let root = parser.kind();
    assert_eq!(parser.rest, "", "{line}");
    Shape { name, version: version.parse().expect("a version"), root }
}

struct Parser {
    rest: &'static str,
}

impl Parser {
    fn accept(&mut self, token: &str) -> bool {
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn until(&mut self, end: char) -> &'static str {
        let (word, rest) = self.rest.split_once(end).expect("a delimiter");
        self.rest = rest;
        word
    }

    fn field(&mut self) -> Field {
        Field { name: self.until(':'), shape: self.kind() }
    }

    fn kind(&mut self) -> Type {
        const TOKENS: [(&str, usize); 9] = [
            ("i1", 1),
            ("i2", 2),
            ("u2", 2),
            ("i4", 4),
            ("u4", 4),
            ("i8", 8),
            ("f8", 8),
            ("id", 16),
            ("b", 0),
        ];
        for (token, size) in TOKENS {
            if self.accept(token) {
                return if size == 0 { Type::Bool } else { Type::Fixed(size) };
            }
        }
        for compact in [false, true] {
            let case = |token: &'static str, upper: &'static str| if compact { upper } else { token };
            if self.accept(case("s", "S")) {
                return Type::Str { compact };
            }
            if self.accept(case("y", "Y")) {
                return Type::Bytes { compact };
            }
            if self.accept(case("a", "A")) {
                return Type::Array { compact, element: Box::new(self.kind()) };
            }
        }
        if self.accept("?") {
            return Type::Nullable(Box::new(self.kind()));
        }
        assert!(self.accept("{"), "{}", self.rest);
        let mut shape = Struct { fields: Vec::new(), tagged: None };
        while !self.accept("}") {
            self.accept(" ");
            if self.accept("[") {
                let tagged = shape.tagged.insert(Vec::new());
                while !self.accept("]") {
                    self.accept(" ");
                    let tag = self.until(' ').parse().expect("a tag");
                    tagged.push((tag, self.field()));
                }
            } else {
                shape.fields.push(self.field());
            }
        }
        Type::Struct(shape)
    }
}
