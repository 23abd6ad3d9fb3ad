//! Running a kernel's thread on paper.

use super::parse::{Base, Declared, Expression, Function, Kind, Name, Space, Statement, Type};
use super::{Place, ThreadCount};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// Most statements of a run: more than any kernel's thread executes, and an end to one that would not end.
const MOST_STATEMENTS: u64 = 1_000_000;
/// Operations of a division that is no shift, and of a special function.
const SLOW: u64 = 4;

/// A number or a vector of them.
#[derive(Clone, Copy, Debug)]
struct Number {
    kind: Kind,
    lanes: u8,
    /// The value of a single integer.
    known: Option<u32>,
    /// Known to the compiler.
    constant: bool,
    /// A product that nothing was added to.
    product: bool,
}

impl Number {
    const fn new(kind: Kind, lanes: u8) -> Self {
        Number { kind, lanes, known: None, constant: false, product: false }
    }

    const fn integer(value: u32, constant: bool) -> Self {
        Number { kind: Kind::Integer, lanes: 1, known: Some(value), constant, product: false }
    }
}

/// Numbers of a thread's own array.
type Cells = Rc<RefCell<Vec<Value>>>;

#[derive(Clone, Debug)]
enum Value {
    Nothing,
    Number(Number),
    Pair,
    /// Into a thread's own array, from an element on.
    Own(Cells, u32),
    /// Into memory.
    Memory(Space, Base),
}

type Outcome<T> = Result<T, String>;

enum Flow {
    On,
    Return(Value),
}

struct Run<'a> {
    functions: &'a HashMap<Name, Function>,
    count: ThreadCount,
    statements: u64,
    /// Bytes of integers read from buffers.
    codes: u64,
    /// For each loop that is not unrolled, by its body: products, bytes, and of these what was codes or local memory.
    loops: HashMap<*const Statement, [u64; 3]>,
    variables: Vec<(Name, Value)>,
    /// Variables of the functions that called the one that runs.
    hidden: usize,
}

/// The value of an expression of integers without names; an unknown name is 0.
pub(super) fn known(expression: &Expression) -> Outcome<u32> {
    let functions = HashMap::new();
    let mut run = Run::new(&functions);
    run.number(expression)?.known.ok_or_else(|| "a condition without value".to_owned())
}

/// Runs a thread of a kernel.
pub(super) fn run(functions: &HashMap<Name, Function>, kernel: &str, place: &Place) -> Outcome<ThreadCount> {
    let function = functions.get(kernel).ok_or("there is no such kernel")?;
    let mut run = Run::new(functions);
    let Place { n, p, row, group, thread } = *place;
    let numbers = [
        ("n", n),
        ("p", p),
        ("row", row),
        ("group_x", group[0]),
        ("group_y", group[1]),
        ("group_z", group[2]),
        ("thread_index", thread),
    ];
    for (name, value) in numbers {
        run.variables.push((name.into(), Value::Number(Number::integer(value, false))));
    }
    for (of, name) in function.parameters.iter().filter(|(of, _)| of.pointer) {
        run.variables.push((name.clone(), Value::Memory(of.space, of.base)));
    }
    run.block(&function.body)?;
    let products = run.count.products;
    let has_most = |[of, _, met]: &&[u64; 3]| *met > 0 && *of > 0 && 10 * of >= 9 * products;
    if let Some([products, bytes, _]) = run.loops.values().filter(has_most).min_by_key(|[_, bytes, _]| bytes) {
        (run.count.inner_products, run.count.inner_bytes) = (*products, *bytes);
    }
    Ok(run.count)
}

const fn of_base(base: Base) -> Value {
    match base {
        Base::Numbers(kind, lanes) => Value::Number(Number::new(kind, lanes)),
        Base::Pair => Value::Pair,
        Base::Nothing => Value::Nothing,
    }
}

impl<'a> Run<'a> {
    fn new(functions: &'a HashMap<Name, Function>) -> Self {
        Run {
            functions,
            count: ThreadCount::default(),
            statements: 0,
            codes: 0,
            loops: HashMap::new(),
            variables: Vec::new(),
            hidden: 0,
        }
    }

    const fn read_so_far(&self) -> [u64; 3] {
        let ThreadCount { products, global_bytes, local_bytes, .. } = self.count;
        [products, global_bytes + local_bytes, self.codes + local_bytes]
    }

    fn pay(&mut self, operations: u64) {
        self.count.operations += operations;
    }

    fn read(&mut self, space: Space, bytes: u64) {
        match space {
            Space::Global => self.count.global_bytes += bytes,
            Space::Local => self.count.local_bytes += bytes,
            Space::Private => {}
        }
    }

    fn variable(&mut self, name: &str) -> Option<&mut Value> {
        self.variables[self.hidden..].iter_mut().rev().find(|(known, _)| **known == *name).map(|(_, value)| value)
    }

    fn block(&mut self, statements: &[Statement]) -> Outcome<Flow> {
        let outer = self.variables.len();
        let mut flow = Flow::On;
        for statement in statements {
            flow = self.statement(statement)?;
            if matches!(flow, Flow::Return(_)) {
                break;
            }
        }
        self.variables.truncate(outer);
        Ok(flow)
    }

    fn statement(&mut self, statement: &Statement) -> Outcome<Flow> {
        self.statements += 1;
        if self.statements > MOST_STATEMENTS {
            return Err("it does not end".to_owned());
        }
        match statement {
            Statement::Declare(of, list) => {
                for declared in list {
                    self.declare(*of, declared)?;
                }
            }
            Statement::Expression(expression) => drop(self.value(expression)?),
            Statement::Block(list) => return self.block(list),
            Statement::If(condition, then, or) => {
                // Where the value is not known, what costs more is done.
                let holds = self.number(condition)?.known.is_none_or(|value| value != 0);
                match (holds, or) {
                    (true, _) => return self.statement(then),
                    (false, Some(or)) => return self.statement(or),
                    (false, None) => {}
                }
            }
            Statement::For { unrolled, first, condition, next, body } => {
                let outer = self.variables.len();
                let before = self.read_so_far();
                let flow = self.turns(*unrolled, first, [condition, next], body)?;
                if !unrolled {
                    let now = self.read_so_far();
                    let of = self.loops.entry(&raw const **body).or_default();
                    (0..3).for_each(|i| of[i] += now[i] - before[i]);
                }
                self.variables.truncate(outer);
                return Ok(flow);
            }
            Statement::Return(None) => return Ok(Flow::Return(Value::Nothing)),
            Statement::Return(Some(value)) => return Ok(Flow::Return(self.value(value)?)),
        }
        Ok(Flow::On)
    }

    fn turns(
        &mut self,
        unrolled: bool,
        first: &Statement,
        [condition, next]: [&Expression; 2],
        body: &Statement,
    ) -> Outcome<Flow> {
        self.statement(first)?;
        let index = self.variables.len() - 1;
        loop {
            if let Value::Number(number) = &mut self.variables[index].1 {
                number.constant = unrolled;
            }
            let holds = self.number(condition)?.known.ok_or("a loop whose end is not known")?;
            if holds == 0 {
                return Ok(Flow::On);
            }
            if let Flow::Return(value) = self.statement(body)? {
                return Ok(Flow::Return(value));
            }
            self.value(next)?;
        }
    }

    fn declare(&mut self, of: Type, declared: &Declared) -> Outcome<()> {
        let value = match (&declared.count, &declared.value) {
            (Some(count), _) => {
                let count = self.number(count)?.known.ok_or("an array whose size is not known")?;
                match of.space {
                    Space::Private => Value::Own(Rc::new(RefCell::new(vec![of_base(of.base); count as usize])), 0),
                    space => Value::Memory(space, of.base),
                }
            }
            (None, Some(value)) => {
                let value = self.value(value)?;
                self.stored(value, of)
            }
            (None, None) => of_base(of.base),
        };
        self.variables.push((declared.name.clone(), value));
        Ok(())
    }

    /// A value as a variable of a type holds it.
    fn stored(&mut self, value: Value, of: Type) -> Value {
        match (value, of.base) {
            (Value::Number(number), Base::Numbers(kind, lanes)) if !of.pointer => {
                let known = number.known.filter(|_| !kind.is_real());
                Value::Number(Number { kind, lanes, known, product: false, constant: number.constant })
            }
            (value, _) => value,
        }
    }

    fn number(&mut self, expression: &Expression) -> Outcome<Number> {
        match self.value(expression)? {
            Value::Number(number) => Ok(number),
            other => Err(format!("a number expected, not {other:?}")),
        }
    }

    fn value(&mut self, expression: &Expression) -> Outcome<Value> {
        Ok(match expression {
            Expression::Integer(value) => Value::Number(Number::integer(*value, true)),
            Expression::Float => Value::Number(Number { constant: true, ..Number::new(Kind::Float, 1) }),
            Expression::Variable(name) => match self.variable(name).cloned() {
                Some(value) => value,
                None if self.functions.is_empty() => Value::Number(Number::integer(0, true)),
                None => return Err(format!("there is no {name}")),
            },
            Expression::Unary(sign, of) => self.unary(sign, of)?,
            Expression::Binary(sign, a, b) => self.both(sign, a, b)?,
            Expression::Assign(sign, target, value) => self.assign(sign, target, value)?,
            Expression::Choose(of) => self.choose(of)?,
            Expression::Call(name, arguments) => self.call(name, arguments)?,
            Expression::Index(of, index) => {
                let of = self.value(of)?;
                let index = self.index(index)?;
                self.element(&of, index)?
            }
            Expression::Member(of, name) => member(&self.value(of)?, name)?,
            Expression::Cast(of, value) => self.cast(*of, value)?,
        })
    }

    /// An index: what a constant adds to it is part of the load.
    fn index(&mut self, expression: &Expression) -> Outcome<Number> {
        if let Expression::Binary("+", a, b) = expression {
            let (a, b) = (self.value(a)?, self.value(b)?);
            if let (Value::Number(a), Value::Number(b)) = (&a, &b) {
                if a.constant || b.constant {
                    let known = a.known.zip(b.known).map(|(a, b)| a.wrapping_add(b));
                    return Ok(Number { known, constant: a.constant && b.constant, ..Number::new(Kind::Integer, 1) });
                }
                return Ok(self.operate("+", *a, *b));
            }
        }
        self.number(expression)
    }

    fn element(&mut self, of: &Value, index: Number) -> Outcome<Value> {
        match of {
            Value::Memory(space, base) => {
                let bytes = match base {
                    Base::Numbers(kind, lanes) => kind.bytes() * u64::from(*lanes),
                    Base::Pair => 32,
                    Base::Nothing => 0,
                };
                self.read(*space, bytes);
                if matches!((space, base), (Space::Global, Base::Numbers(Kind::Integer, _))) {
                    self.codes += bytes;
                }
                Ok(of_base(*base))
            }
            Value::Own(cells, start) => {
                let index = index.known.ok_or("an index into an own array that is not known")? + start;
                cells.borrow().get(index as usize).cloned().ok_or_else(|| format!("element {index} of an own array"))
            }
            other => Err(format!("{other:?} has no elements")),
        }
    }

    fn unary(&mut self, sign: &str, of: &Expression) -> Outcome<Value> {
        let number = self.number(of)?;
        // A sign is part of the instruction that takes the number.
        if sign == "-" && number.kind.is_real() || sign == "+" {
            return Ok(Value::Number(number));
        }
        if !number.constant {
            self.pay(u64::from(number.lanes));
        }
        let known = number.known.map(|value| match sign {
            "!" => u32::from(value == 0),
            "~" => !value,
            _ => value.wrapping_neg(),
        });
        Ok(Value::Number(Number { known, product: false, ..number }))
    }

    fn both(&mut self, sign: &'static str, a: &Expression, b: &Expression) -> Outcome<Value> {
        let first = self.value(a)?;
        // What decides alone is all that is looked at.
        if let (Value::Number(Number { known: Some(value), .. }), "&&" | "||") = (&first, sign)
            && (*value != 0) == (sign == "||")
        {
            self.pay(1);
            return Ok(Value::Number(Number::integer(u32::from(*value != 0), false)));
        }
        let second = self.value(b)?;
        match (first, second) {
            (Value::Number(a), Value::Number(b)) => Ok(Value::Number(self.operate(sign, a, b))),
            (Value::Own(cells, start), Value::Number(Number { known: Some(more), .. })) => {
                Ok(Value::Own(cells, start + more))
            }
            (Value::Memory(space, base), Value::Number(by)) => {
                if !by.constant {
                    self.pay(1);
                }
                Ok(Value::Memory(space, base))
            }
            (a, b) => Err(format!("{a:?} {sign} {b:?}")),
        }
    }

    fn operate(&mut self, sign: &str, a: Number, b: Number) -> Number {
        let lanes = a.lanes.max(b.lanes);
        let kind = if a.kind.is_real() || b.kind.is_real() {
            // A constant takes the other's precision.
            match (a.kind, b.kind) {
                (Kind::Half, Kind::Half) => Kind::Half,
                (Kind::Half, _) if b.constant => Kind::Half,
                (_, Kind::Half) if a.constant => Kind::Half,
                _ => Kind::Float,
            }
        } else {
            Kind::Integer
        };
        let known = a.known.zip(b.known).and_then(|(a, b)| computed(sign, a, b));
        let constant = a.constant && b.constant;
        let compares = matches!(sign, "==" | "!=" | "<" | ">" | "<=" | ">=" | "&&" | "||");
        let free = constant || is_identity(sign, a, b);
        let fuses = matches!(sign, "+" | "-") && kind.is_real() && (a.product || b.product);
        if fuses {
            self.count.products += u64::from(lanes);
        } else if !free {
            let each = match sign {
                "/" | "%" if kind.is_real() => SLOW,
                "/" | "%" if !(b.constant && b.known.is_some_and(u32::is_power_of_two)) => SLOW,
                _ => 1,
            };
            self.pay(each * u64::from(lanes));
        }
        let product = sign == "*" && kind.is_real() && !free;
        let kind = if compares { Kind::Integer } else { kind };
        Number { kind, lanes, known, constant, product }
    }

    fn assign(&mut self, sign: &'static str, target: &Expression, value: &Expression) -> Outcome<Value> {
        let value = match sign {
            "" => self.value(value)?,
            _ => self.both(sign, target, value)?,
        };
        match target {
            Expression::Variable(name) => {
                let place = self.variable(name).ok_or_else(|| format!("there is no {name}"))?;
                *place = kept(place, value.clone());
            }
            Expression::Index(of, index) => {
                let of = self.value(of)?;
                let index = self.index(index)?;
                if let (Value::Own(cells, start), Some(index)) = (of, index.known) {
                    let mut cells = cells.borrow_mut();
                    let place = cells.get_mut((index + start) as usize).ok_or("an element beyond an own array")?;
                    *place = kept(place, value.clone());
                }
            }
            // A part of a vector of real numbers, whose value nobody knows.
            Expression::Member(..) => {}
            other => return Err(format!("{other:?} cannot be assigned to")),
        }
        Ok(value)
    }

    fn choose(&mut self, [condition, yes, no]: &[Expression; 3]) -> Outcome<Value> {
        let condition = self.number(condition)?;
        if condition.constant
            && let Some(known) = condition.known
        {
            return self.value(if known != 0 { yes } else { no });
        }
        let (a, b) = (self.value(yes)?, self.value(no)?);
        if let (Value::Number(a), Value::Number(b)) = (&a, &b) {
            let lanes = a.lanes.max(b.lanes);
            self.pay(u64::from(lanes));
            let chosen = match condition.known {
                Some(0) => b.known,
                Some(_) => a.known,
                None => a.known.filter(|_| a.known == b.known),
            };
            let kind = if a.constant { b.kind } else { a.kind };
            return Ok(Value::Number(Number { known: chosen, ..Number::new(kind, lanes) }));
        }
        self.pay(1);
        Ok(if condition.known == Some(0) { b } else { a })
    }

    fn cast(&mut self, of: Type, value: &Expression) -> Outcome<Value> {
        let value = self.value(value)?;
        Ok(match value {
            Value::Memory(space, _) if of.pointer => Value::Memory(space, of.base),
            Value::Number(number) if !of.pointer => match of.base {
                Base::Numbers(kind, lanes) => {
                    let number = self.converted(number, kind);
                    Value::Number(Number { lanes: lanes.max(number.lanes), ..number })
                }
                _ => return Err(format!("a cast to {of:?}")),
            },
            other => other,
        })
    }

    fn converted(&mut self, number: Number, kind: Kind) -> Number {
        let same = number.kind == kind || !number.kind.is_real() && !kind.is_real();
        if !same && !number.constant {
            self.pay(u64::from(number.lanes));
        }
        let known = number.known.filter(|_| !kind.is_real());
        Number { kind, known, product: number.product && same, ..number }
    }

    fn call(&mut self, name: &Name, arguments: &[Expression]) -> Outcome<Value> {
        let values = arguments.iter().map(|argument| self.value(argument)).collect::<Outcome<Vec<_>>>()?;
        let Some(function) = self.functions.get(name) else {
            return self.builtin(name, &values);
        };
        let (hidden, outer) = (self.hidden, self.variables.len());
        for ((of, name), value) in function.parameters.iter().zip(values) {
            let value = self.stored(value, *of);
            self.variables.push((name.clone(), value));
        }
        self.hidden = outer;
        let flow = self.block(&function.body)?;
        self.hidden = hidden;
        self.variables.truncate(outer);
        Ok(match flow {
            Flow::Return(value) => value,
            Flow::On => Value::Nothing,
        })
    }

    fn builtin(&mut self, name: &str, values: &[Value]) -> Outcome<Value> {
        if let Some(load) = name.strip_prefix("load") {
            return self.load(load, values);
        }
        let numbers: Vec<Number> = values
            .iter()
            .filter_map(|value| if let Value::Number(number) = value { Some(*number) } else { None })
            .collect();
        let lanes = numbers.iter().map(|number| number.lanes).max().unwrap_or(1);
        let all = u64::from(lanes);
        let first = numbers.first().copied().unwrap_or(Number::new(Kind::Float, 1));
        let real = Value::Number(Number::new(if first.kind.is_real() { first.kind } else { Kind::Float }, lanes));
        Ok(match name {
            "barrier" | "store" => Value::Nothing,
            "make_pair" => Value::Pair,
            "make_vector" => {
                let lanes = numbers.iter().map(|number| number.lanes).sum();
                let kind = numbers.iter().find(|number| !number.constant).map_or(first.kind, |number| number.kind);
                Value::Number(Number::new(kind, lanes))
            }
            "as_ushort4" => Value::Number(Number::new(Kind::Short, 4)),
            "as_float4" => Value::Number(Number::new(Kind::Float, 4)),
            "to_half" => Value::Number(self.converted(first, Kind::Half)),
            "to_float" => Value::Number(self.converted(first, Kind::Float)),
            "exp" | "log" | "tanh" | "rsqrt" => {
                self.pay(SLOW * all);
                real
            }
            "fabs" => {
                self.pay(all);
                real
            }
            "clamp" => {
                self.pay(2 * all);
                real
            }
            "dot" => {
                // The first product may begin with a sum.
                self.pay(all);
                self.count.products += all - 1;
                Value::Number(Number { product: true, ..Number::new(first.kind, 1) })
            }
            "min" | "max" => {
                let [a, b] = numbers[..] else { return Err(format!("{name} of {values:?}")) };
                let known = a.known.zip(b.known).map(|(a, b)| if name == "min" { a.min(b) } else { a.max(b) });
                let constant = a.constant && b.constant;
                if !constant {
                    self.pay(all);
                }
                Value::Number(Number { known, constant, ..Number::new(first.kind, lanes) })
            }
            _ => return Err(format!("there is no function {name}")),
        })
    }

    /// `load`, how many numbers where more than one, `_`, and of which type; always gives single precision.
    fn load(&mut self, what: &str, values: &[Value]) -> Outcome<Value> {
        let (count, of) = what.split_once('_').ok_or_else(|| format!("load{what}"))?;
        let count: u8 = if count.is_empty() { 1 } else { count.parse().map_err(|_| format!("load{what}"))? };
        let Some(Value::Memory(space, _)) = values.first() else { return Err(format!("load{what} from {values:?}")) };
        let bytes = if of == "f32" { 4 } else { 2 };
        self.read(*space, bytes * u64::from(count));
        if of != "f32" {
            self.pay(u64::from(count));
        }
        Ok(if count == 8 { Value::Pair } else { Value::Number(Number::new(Kind::Float, count)) })
    }
}

/// A value in the place of another, of whose type it becomes.
fn kept(place: &Value, value: Value) -> Value {
    match (place, value) {
        (Value::Number(before), Value::Number(number)) => {
            let known = number.known.filter(|_| !before.kind.is_real());
            Value::Number(Number { kind: before.kind, lanes: before.lanes, known, constant: false, product: false })
        }
        (_, value) => value,
    }
}

/// Whether nothing has to be computed: a 0 that is added, a 1 that is multiplied by.
fn is_identity(sign: &str, a: Number, b: Number) -> bool {
    let is = |number: Number, value| number.constant && number.known == Some(value) && number.kind == Kind::Integer;
    match sign {
        "+" | "|" => is(a, 0) || is(b, 0),
        "-" | "<<" | ">>" => is(b, 0),
        "*" => is(a, 1) || is(b, 1) || is(a, 0) || is(b, 0),
        "/" | "%" => is(b, 1),
        _ => false,
    }
}

fn computed(sign: &str, a: u32, b: u32) -> Option<u32> {
    Some(match sign {
        "+" => a.wrapping_add(b),
        "-" => a.wrapping_sub(b),
        "*" => a.wrapping_mul(b),
        "/" => a.checked_div(b)?,
        "%" => a.checked_rem(b)?,
        "&" => a & b,
        "|" => a | b,
        "^" => a ^ b,
        "<<" => a.checked_shl(b)?,
        ">>" => a.checked_shr(b)?,
        "==" => u32::from(a == b),
        "!=" => u32::from(a != b),
        "<" => u32::from(a < b),
        ">" => u32::from(a > b),
        "<=" => u32::from(a <= b),
        ">=" => u32::from(a >= b),
        "&&" => u32::from(a != 0 && b != 0),
        "||" => u32::from(a != 0 || b != 0),
        _ => return None,
    })
}

fn member(of: &Value, name: &str) -> Outcome<Value> {
    match (of, name) {
        (Value::Pair, "lo" | "hi") => Ok(Value::Number(Number::new(Kind::Float, 4))),
        (Value::Number(number), "lo" | "hi") => Ok(Value::Number(Number::new(number.kind, number.lanes / 2))),
        (Value::Number(number), swizzle) if swizzle.bytes().all(|part| b"xyzw".contains(&part)) => {
            Ok(Value::Number(Number { constant: false, ..Number::new(number.kind, swizzle.len() as u8) }))
        }
        (of, name) => Err(format!("{of:?} has no {name}")),
    }
}
