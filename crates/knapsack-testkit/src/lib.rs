//! Shared test fixtures and servers (development only).
