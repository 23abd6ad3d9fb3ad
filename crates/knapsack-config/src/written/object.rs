//! Objects with keys: what one row of [`crate::written`] makes of a key.

use super::reader::Reader;
use crate::codes;
use crate::diagnostic::Diagnostic;
use crate::parse::{Kind, Member, Node};
use crate::source_map::Span;
use serde_json::{Map, Value as Json, json};

/// What a key was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Given<T> {
    /// A value that is right on its own.
    Value(T),
    /// Null: what an extended file says is removed.
    Null,
    /// Something wrong, reported already.
    Wrong,
}

/// A key with its value as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Field<T> {
    /// The key.
    pub(crate) key: Span,
    /// The value.
    pub(crate) span: Span,
    pub(crate) given: Given<T>,
}

/// What null says in place of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Null {
    /// Nothing: it is of the wrong type.
    Wrong,
    /// That what an extended file says is removed; wrong in a file that extends nothing.
    Removes,
    /// The same, and in a file that extends nothing that the key is not given: MLC takes it so.
    Absent,
}

/// A kind of value: how it is read, what it means on top of another, and what an editor is told of it.
pub(crate) trait Value: Sized {
    /// What null says.
    const NULL: Null = Null::Removes;

    /// Reads a value. What is wrong with it goes to the reader's diagnostics.
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self>;

    /// This value on top of what an extended file says, with nothing left in it that only removes.
    fn over(self, _below: Option<Self>) -> Self {
        self
    }

    /// The JSON Schema of the value, in a file that extends another or in a complete one.
    fn schema(extending: bool) -> Json;
}

impl<T: Value> Field<T> {
    /// The value, when it is right.
    pub(crate) fn value(self) -> Option<T> {
        self.given.value()
    }

    /// The field on top wins, null leaves nothing, and two right values are put together as their kind wants it.
    pub(crate) fn over(above: Option<Self>, below: Option<Self>) -> Option<Self> {
        match above {
            None => below,
            Some(Field { given: Given::Null, .. }) => None,
            Some(Field { given: Given::Value(value), key, span }) => {
                let below = below.and_then(Field::value);
                Some(Field { key, span, given: Given::Value(value.over(below)) })
            }
            wrong => wrong,
        }
    }
}

impl<T> Given<T> {
    /// The value, when it is right.
    pub(crate) fn value(self) -> Option<T> {
        match self {
            Given::Value(value) => Some(value),
            Given::Null | Given::Wrong => None,
        }
    }
}

impl Reader<'_> {
    /// A key's value of the kind that its row names.
    pub(crate) fn field<T: Value>(&mut self, member: &Member) -> Field<T> {
        self.value(member, T::NULL, |reader, node| T::read(node, reader))
    }

    /// A key's value, which null may stand in place of.
    pub(crate) fn value<T>(
        &mut self,
        member: &Member,
        null: Null,
        read: impl FnOnce(&mut Self, &Node) -> Option<T>,
    ) -> Field<T> {
        let node = &member.value;
        let given = match null {
            Null::Removes | Null::Absent if node.kind == Kind::Null => self.null(node.span, null),
            _ => read(self, node).map_or(Given::Wrong, Given::Value),
        };
        Field { key: member.key.span, span: node.span, given }
    }

    fn null<T>(&mut self, span: Span, null: Null) -> Given<T> {
        if self.extends || null == Null::Absent {
            return Given::Null;
        }
        let error = Diagnostic::error(codes::NULL_WITHOUT_BASE, span, "null has nothing to remove")
            .label("leave the key out")
            .help("null removes what a file named by `extends` says; this file extends nothing");
        self.diagnostics.push(error);
        Given::Wrong
    }
}

/// What is known of a key without a manifest: for messages, the schema and the documentation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    /// What it says.
    pub(crate) meaning: &'static str,
    /// Which values are wrong, and what happens then.
    pub(crate) wrong: &'static str,
    /// What to add when it is missing; `None` for a key that may be left out.
    pub(crate) required: Option<fn() -> String>,
    pub(crate) null: Null,
    /// What it is called in files that look like manifests: told, not accepted.
    pub(crate) elsewhere: &'static [&'static str],
    pub(crate) schema: fn(extending: bool) -> Json,
}

/// An object of the given keys. In a file that extends another everything may be left out but what says which object is meant.
pub(crate) fn object_schema(keys: &[Key], extending: bool) -> Json {
    let required = keys.iter().filter(|key| key.required.is_some() && !(extending && key.null != Null::Wrong));
    let properties = keys.iter().map(|key| {
        let schema = (key.schema)(extending);
        let mut schema = nullable(schema, key.null, extending);
        schema["description"] = key.meaning.trim().into();
        (key.name.to_owned(), schema)
    });
    json!({
        "type": "object",
        "properties": Map::from_iter(properties),
        "required": required.map(|key| key.name).collect::<Vec<_>>(),
        "additionalProperties": false,
    })
}

/// Also accepts null, where it says something.
pub(crate) fn nullable(schema: Json, null: Null, extending: bool) -> Json {
    if null == Null::Absent || null == Null::Removes && extending {
        json!({ "anyOf": [schema, { "type": "null" }] })
    } else {
        schema
    }
}

/// Declares an object by its keys, a row each: what it means, its name, its field and kind of value, what is wrong, what other
/// files call it, and what to add when it is missing. Reading, merging, the schema, the documentation and suggestions follow from the rows.
macro_rules! object {
    (
        $(#[doc = $doc:literal])+
        struct $object:ident;
        $(
            $(#[doc = $meaning:literal])+
            $name:literal $field:ident: $value:ty, wrong $wrong:literal $(, elsewhere [$($elsewhere:literal),+])?
                $(, required $required:expr)?;
        )+
    ) => {
        $(#[doc = $doc])+
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub(crate) struct $object {
            /// The whole object.
            pub(crate) span: Span,
            $($(#[doc = $meaning])+ pub(crate) $field: Option<Field<$value>>,)+
        }

        impl $object {
            /// The rows.
            pub(crate) const KEYS: &'static [Key] = &[$(Key {
                name: $name,
                meaning: concat!($($meaning),+),
                wrong: $wrong,
                required: [$(Some((|| String::from($required)) as fn() -> String),)? None][0],
                null: <$value as Value>::NULL,
                elsewhere: &[$($($elsewhere),+)?],
                schema: <$value as Value>::schema,
            }),+];

            /// Without any key.
            pub(crate) fn empty(span: Span) -> Self {
                $object { span, $($field: None),+ }
            }

            /// Reads the keys that are known.
            fn of(span: Span, members: &[Member], reader: &mut Reader<'_>) -> Self {
                let mut object = Self::empty(span);
                for member in members {
                    match member.key.value.as_str() {
                        $($name => object.$field = Some(reader.field(member)),)+
                        _ => {}
                    }
                }
                object
            }

            /// Notes that an unknown key was meant to be this one, so that it is not missing besides.
            fn meant(&mut self, name: &str, member: &Member) {
                match name {
                    $($name => {
                        let wrong = Field { key: member.key.span, span: member.value.span, given: Given::Wrong };
                        self.$field.get_or_insert(wrong);
                    })+
                    _ => {}
                }
            }

            /// These keys on top of those of an extended file.
            pub(crate) fn over(self, below: Self) -> Self {
                $object { span: self.span, $($field: Field::over(self.$field, below.$field)),+ }
            }

            /// The keys that must be there and are not, each with what to add.
            pub(crate) fn missing(&self) -> impl Iterator<Item = (&'static str, String)> {
                let absent = [$(self.$field.is_none()),+];
                let missing = absent.into_iter().zip(Self::KEYS).filter(|(absent, _)| *absent);
                missing.filter_map(|(_, key)| Some((key.name, key.required?())))
            }
        }
    };
}
pub(crate) use object;
