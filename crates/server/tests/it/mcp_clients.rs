//! Real clients of the Model Context Protocol: the official inspector and the official library for Python.
#![allow(clippy::unwrap_used, missing_docs)]
