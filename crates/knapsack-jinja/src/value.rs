//! Values while a template runs. Containers live in the interpreter's heap and values name them by number: so a namespace may
//! contain itself, nothing leaks, and nothing is dropped recursively.

use crate::ast::{For, Macro, Name};
use crate::text::Text;
use indexmap::IndexMap;
use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::rc::Rc;
use std::sync::Arc;

pub(crate) type Id = u32;

#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// The name that was looked up.
    Undefined(Name),
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Arc<Text>),
    List(Id),
    Tuple(Id),
    Dict(Id),
    Namespace(Id),
    Loop(Id),
    Macro(Rc<Closure>),
    Function(Function),
    /// A method of a value, such as `text.strip`.
    Method(Rc<(Value, &'static str)>),
}

/// Names and what they stand for.
pub(crate) type Scope = Rc<RefCell<HashMap<Name, Value>>>;

/// The scopes that a macro sees.
#[derive(Debug)]
pub(crate) enum Seen {
    /// The outermost ones, this many.
    Outermost(usize),
    /// Those at the place of a `{% call %}`, whose body runs inside another macro.
    Captured(Vec<Scope>),
}

/// A macro and what it sees.
#[derive(Debug)]
pub(crate) struct Closure {
    pub(crate) code: Arc<Macro>,
    pub(crate) seen: Seen,
    /// The body of the `{% call %}` that calls it.
    pub(crate) caller: Option<Value>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Function {
    Range,
    Dict,
    Namespace,
    RaiseException,
    StrftimeNow,
}

/// What `loop` is.
#[derive(Debug)]
pub(crate) struct LoopState {
    pub(crate) index: usize,
    pub(crate) items: Id,
    pub(crate) depth: usize,
    pub(crate) code: Arc<For>,
    pub(crate) changed: Option<Id>,
}

/// A dictionary's key. As in Python, `True` and `1` are one.
#[derive(Clone, Debug)]
pub(crate) enum Key {
    None,
    Bool(bool),
    Int(i64),
    Text(Arc<Text>),
}

impl Key {
    fn number(&self) -> Option<i64> {
        match self {
            Key::Bool(value) => Some(i64::from(*value)),
            Key::Int(value) => Some(*value),
            Key::None | Key::Text(_) => None,
        }
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Key::Text(a), Key::Text(b)) => a.as_str() == b.as_str(),
            (Key::None, Key::None) => true,
            (a, b) => a.number().is_some() && a.number() == b.number(),
        }
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Key::Text(text) => text.as_str().hash(state),
            Key::None => 0u8.hash(state),
            other => other.number().hash(state),
        }
    }
}

impl From<&Key> for Value {
    fn from(key: &Key) -> Self {
        match key {
            Key::None => Value::None,
            Key::Bool(value) => Value::Bool(*value),
            Key::Int(value) => Value::Int(*value),
            Key::Text(text) => Value::Text(text.clone()),
        }
    }
}

pub(crate) type Dict = IndexMap<Key, Value>;

#[derive(Debug, Default)]
pub(crate) struct Heap {
    pub(crate) lists: Vec<Vec<Value>>,
    pub(crate) dicts: Vec<Dict>,
    pub(crate) loops: Vec<LoopState>,
}

impl Value {
    pub(crate) fn trusted(text: impl Into<String>) -> Self {
        Value::Text(Arc::new(Text::trusted(text)))
    }

    /// The type's name in Python.
    pub(crate) fn type_name(&self) -> &'static str {
        match self {
            Value::Undefined(_) => "Undefined",
            Value::None => "NoneType",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Float(_) => "float",
            Value::Text(_) => "str",
            Value::List(_) => "list",
            Value::Tuple(_) => "tuple",
            Value::Dict(_) => "dict",
            Value::Namespace(_) => "Namespace",
            Value::Loop(_) => "LoopContext",
            Value::Macro(_) => "Macro",
            Value::Function(_) | Value::Method(_) => "function",
        }
    }

    pub(crate) fn is_undefined(&self) -> bool {
        matches!(self, Value::Undefined(_))
    }

    pub(crate) fn number(&self) -> Option<Number> {
        match self {
            Value::Bool(value) => Some(Number::Int(i64::from(*value))),
            Value::Int(value) => Some(Number::Int(*value)),
            Value::Float(value) => Some(Number::Float(*value)),
            _ => None,
        }
    }

    pub(crate) fn as_str(&self) -> Option<&str> {
        match self {
            Value::Text(text) => Some(text.as_str()),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Number {
    Int(i64),
    Float(f64),
}

impl Number {
    pub(crate) fn float(self) -> f64 {
        match self {
            Number::Int(value) => value as f64,
            Number::Float(value) => value,
        }
    }
}
