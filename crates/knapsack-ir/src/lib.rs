//! The graph: operations, verifier, text form, reference interpreter.
