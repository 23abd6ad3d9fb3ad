//! Executes statements.

use crate::ast::{Applied, For, Node, Target};
use crate::error::{Error, Result};
use crate::interpreter::{Given, Interpreter, undefined};
use crate::text::Text;
use crate::value::{Closure, Id, Key, LoopState, Scope, Seen, Value};
use std::rc::Rc;
use std::sync::Arc;

/// How a body ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    Next,
    Break,
    Continue,
}

impl Interpreter<'_> {
    pub(crate) fn execute(&mut self, nodes: &[Node]) -> Result<Flow> {
        for node in nodes {
            self.budget.down()?;
            let flow = self.statement(node)?;
            self.budget.up();
            if flow != Flow::Next {
                return Ok(flow);
            }
        }
        Ok(Flow::Next)
    }

    fn statement(&mut self, node: &Node) -> Result<Flow> {
        match node {
            Node::Data(text) => self.write(text)?,
            Node::Print(value) => {
                let value = self.eval(value)?;
                let text = self.printed(&value)?;
                self.write(&text)?;
            }
            Node::If(arms, otherwise) => {
                for (condition, body) in arms {
                    let condition = self.eval(condition)?;
                    if self.truth(&condition) {
                        return self.execute(body);
                    }
                }
                return self.execute(otherwise);
            }
            Node::For(code) => {
                let items = self.eval(&code.items)?;
                self.run_loop(code, &items, 1)?;
            }
            Node::Set(target, value) => {
                let value = self.eval(value)?;
                self.assign(target, value)?;
            }
            Node::SetBlock(target, filters, body) => {
                let made = self.captured(body, filters)?;
                self.assign(target, made)?;
            }
            Node::Macro(code) => {
                let closure = Closure { code: code.clone(), seen: Seen::Outermost(self.scopes.len()), caller: None };
                self.assign_name(&code.name, Value::Macro(Rc::new(closure)));
            }
            Node::Call(call, code) => {
                self.budget.bytes(self.scopes.len() * 16)?;
                self.captured.extend(self.scopes.iter().cloned());
                let caller = Closure { code: code.clone(), seen: Seen::Captured(self.scopes.clone()), caller: None };
                let crate::ast::Kind::Call(callee, arguments) = &call.kind else { return Ok(Flow::Next) };
                let callee = self.eval(callee)?;
                let mut given = self.given(arguments)?;
                given.named.push(("caller".into(), Value::Macro(Rc::new(caller))));
                let value = self.call(&callee, given).map_err(|error| error.at(call.line))?;
                let text = self.printed(&value)?;
                self.write(&text)?;
            }
            Node::Filter(filters, body) => {
                let made = self.captured(body, filters)?;
                let text = self.printed(&made)?;
                self.write(&text)?;
            }
            Node::With(variables, body) => {
                let mut values = Vec::new();
                for (target, value) in variables {
                    values.push((target, self.eval(value)?));
                }
                self.scopes.push(Scope::default());
                for (target, value) in values {
                    self.assign(target, value)?;
                }
                let flow = self.execute(body)?;
                self.scopes.pop();
                return Ok(flow);
            }
            Node::Break => return Ok(Flow::Break),
            Node::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::Next)
    }

    fn write(&mut self, text: &Text) -> Result<()> {
        self.budget.bytes(text.len())?;
        if self.out.len() + text.len() > self.budget.output() {
            return Err(Error::limit(format!("its text has more than {} bytes", self.budget.output())));
        }
        self.out.push(text);
        Ok(())
    }

    /// What `body` writes, through the filters.
    fn captured(&mut self, body: &[Node], filters: &[Applied]) -> Result<Value> {
        let outer = std::mem::take(&mut self.out);
        self.scopes.push(Scope::default());
        self.execute(body)?;
        self.scopes.pop();
        let made = std::mem::replace(&mut self.out, outer);
        let mut value = Value::Text(Arc::new(made));
        for filter in filters {
            let given = self.given(&filter.arguments)?;
            value = self.filter(&filter.name, value, given).map_err(|error| error.at(filter.line))?;
        }
        Ok(value)
    }

    pub(crate) fn assign(&mut self, target: &Target, value: Value) -> Result<()> {
        match target {
            Target::Name(name) => self.assign_name(name, value),
            Target::Tuple(targets) => {
                let values = self.iterate(&value)?;
                if values.len() != targets.len() {
                    return Err(Error::operation(format!(
                        "{} values for {} names in an assignment",
                        values.len(),
                        targets.len()
                    )));
                }
                for (target, value) in targets.iter().zip(values) {
                    self.assign(target, value)?;
                }
            }
            Target::Attribute(name, attribute) => match self.lookup(name) {
                Value::Namespace(id) => {
                    self.budget.bytes(64)?;
                    let key = Key::Text(Arc::new(Text::trusted(&**attribute)));
                    self.heap.dicts[id as usize].insert(key, value);
                }
                Value::Undefined(name) => return Err(undefined(&name)),
                _ => return Err(Error::operation("only attributes of namespaces can be assigned")),
            },
        }
        Ok(())
    }

    fn run_loop(&mut self, code: &Arc<For>, items: &Value, depth: usize) -> Result<()> {
        let mut items = self.iterate(items)?;
        if let Some(condition) = &code.only_if {
            let mut kept = Vec::new();
            for item in items {
                self.scopes.push(Scope::default());
                self.assign(&code.target, item.clone())?;
                let condition = self.eval(condition)?;
                self.scopes.pop();
                if self.truth(&condition) {
                    kept.push(item);
                }
            }
            items = kept;
        }
        if items.is_empty() {
            self.execute(&code.otherwise)?;
            return Ok(());
        }
        let items = self.sequence(items)?;
        self.budget.bytes(64)?;
        let id = self.heap.loops.len() as Id;
        self.heap.loops.push(LoopState { index: 0, items, depth, code: code.clone(), changed: None });
        for index in 0..self.heap.lists[items as usize].len() {
            self.budget.steps(1)?;
            self.heap.loops[id as usize].index = index;
            self.scopes.push(Scope::default());
            self.assign_name(&"loop".into(), Value::Loop(id));
            let item = self.heap.lists[items as usize][index].clone();
            self.assign(&code.target, item)?;
            let flow = self.execute(&code.body)?;
            self.scopes.pop();
            if flow == Flow::Break {
                break;
            }
        }
        Ok(())
    }

    /// `loop(items)` inside a recursive loop.
    pub(crate) fn recurse(&mut self, id: Id, given: Given) -> Result<Value> {
        let [items] = given.bind("loop", ["items"])?;
        let state = &self.heap.loops[id as usize];
        let (code, depth) = (state.code.clone(), state.depth + 1);
        if !code.recursive {
            return Err(Error::operation("the loop is not marked as recursive"));
        }
        let items = items.ok_or_else(|| Error::operation("loop() wants the items"))?;
        self.budget.down()?;
        let outer = std::mem::take(&mut self.out);
        self.run_loop(&code, &items, depth)?;
        let made = std::mem::replace(&mut self.out, outer);
        self.budget.up();
        Ok(Value::Text(Arc::new(made)))
    }
}
