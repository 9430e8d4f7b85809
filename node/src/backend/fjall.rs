//! The backend on fjall.
