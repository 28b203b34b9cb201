//! The entry around an instruction that computes in one thread: it loads the operands from a row of the input and
//! stores the results to a row of the output.

use super::case::{ROWS_OF_CTA, SLOT_BYTES, Type};

/// Names and types of operands or results.
pub(super) type Names = Vec<(Type, String)>;

/// The entry for a form. Besides operands and results the form may use predicates `p` and `q`, and `h`, `s`, `t`, `w`
/// of 16, 32, 32 and 64 bits.
pub(super) fn entry(name: &str, operands: &Names, results: &Names, form: &str) -> String {
    let registers: String = operands
        .iter()
        .chain(results)
        .map(|(ty, register)| format!("    .reg .b{} {register};\n", ty.bits()))
        .collect();
    let loads: String = operands
        .iter()
        .enumerate()
        .map(|(i, (ty, register))| {
            format!("    ld.global.b{} {register}, [in+{}];\n", ty.bits(), i * SLOT_BYTES)
        })
        .collect();
    let stores: String = results
        .iter()
        .enumerate()
        .map(|(i, (ty, register))| {
            format!("    st.global.b{} [out+{}], {register};\n", ty.bits(), i * SLOT_BYTES)
        })
        .collect();
    let (from, to) = (operands.len() * SLOT_BYTES, results.len() * SLOT_BYTES);
    format!(
        ".visible .entry {name}(.param .u64 input, .param .u64 output) {{
    .reg .pred p, q;
    .reg .b16 h;
    .reg .b32 s, t, row, thread;
    .reg .b64 w, in, out;
{registers}    mov.u32 row, %ctaid.x;
    mov.u32 thread, %tid.x;
    mad.lo.u32 row, row, {ROWS_OF_CTA}, thread;
    ld.param.u64 in, [input];
    ld.param.u64 out, [output];
    mad.wide.u32 in, row, {from}, in;
    mad.wide.u32 out, row, {to}, out;
{loads}    {form};
{stores}    ret;
}}
"
    )
}
