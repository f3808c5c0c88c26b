//! The views on messages, all of them; for the fuzz target of framing too.

use weir::wire::frame::Fields;
use weir::wire::{backend, frontend};

/// Every view on a message, on any bytes.
pub(super) fn every(body: &[u8], number: usize) {
    let _ = frontend::query(body);
    let _ = frontend::parse(body);
    let _ = frontend::named(body);
    let _ = frontend::execute(body);
    if let Ok(bind) = frontend::bind(body) {
        let _ = bind.parameter(number);
    }
    let _ = backend::ready_for_query(body);
    let _ = backend::parameter_status(body);
    let _ = backend::backend_key_data(body);
    let _ = backend::command_tag(body);
    let _ = backend::error(body);
    let _ = backend::error_fields(body).count();
    let _ = backend::single_value(body);
    let mut fields = Fields::new(body);
    while fields.u8().is_ok() && fields.u16().is_ok() && fields.cstr().is_ok() && fields.u32().is_ok() {}
}
