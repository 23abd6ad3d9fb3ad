//! Model families: configuration, parameter names, graph.
