//! Stories told from the outside: real processes, real sockets, and the simulator.

mod demo;
mod faults;
mod harness;
mod one_mesh_on_machines;
mod packaging;
mod sim;
mod tidy;
