//! codegen-server
