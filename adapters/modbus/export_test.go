package modbus

// Gullible makes an adapter that does not run yet take any answer that looks right: ids are not compared, nothing
// that has come is dropped before a request, and a unit that was silent is asked again at once. It is what the
// proofs must find wrong.
func (a *Adapter) Gullible() {
	for _, w := range a.wires {
		w.link.silence, w.link.cfg.IgnoreTransactionID = 0, true
		if a.cfg.Framing == MBAP {
			w.link.framing = mbap{ignoreID: true}
		}
	}
}
