//! What requests are normalised to, what of them is refused, and how they are decided.

mod fields;
mod forms;
mod paths;
mod reference;
mod rows;
