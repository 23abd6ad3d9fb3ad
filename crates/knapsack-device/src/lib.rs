//! Devices that execute a model library: CPU, OpenCL, Metal, fake.
