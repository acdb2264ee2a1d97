//! What a crash, a damaged disk or a full one leaves of a storage: everything acknowledged, nothing half.
//!
//! - `tail`: what a crash leaves at the end; `processes`: processes that are killed, refused or held back
//! - `damage`, `flips`, `fuzz`, `full_disk`: disks that fail
//! - `saved_index`: whatever became of the saved index; `formats`: what earlier versions wrote

mod damage;
mod flips;
mod formats;
mod full_disk;
mod fuzz;
mod processes;
mod rig;
mod saved_index;
mod tail;
