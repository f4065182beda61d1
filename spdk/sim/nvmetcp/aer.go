package nvmetcp

// notify raises an asynchronous event if the host enabled it. Until the host has
// read the log page concerned, the same event is not raised again.
func (a *association) notify(event, enabled uint32) {
	a.mu.Lock()
	if a.aec&enabled == 0 || a.masked[event] || a.queues[0] == nil {
		a.mu.Unlock()
		return
	}
	a.masked[event] = true
	if len(a.aers) == 0 {
		a.events = append(a.events, event)
		a.mu.Unlock()
		return
	}
	r := a.aers[len(a.aers)-1]
	a.aers = a.aers[:len(a.aers)-1]
	a.mu.Unlock()
	r.q.complete(r, response{result: uint64(event)})
}

// unmask lets an event be raised again: its log page was read without RAE.
func (a *association) unmask(event uint32) {
	a.mu.Lock()
	delete(a.masked, event)
	a.mu.Unlock()
}

// asyncEvent holds an asynchronous event request, or completes it with an event
// that waits.
func (a *association) asyncEvent(r *request) response {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.aers) >= maxAERs {
		return failed(specific(SCAsyncEventLimit))
	}
	if len(a.events) > 0 {
		event := a.events[0]
		a.events = a.events[1:]
		return response{result: uint64(event)}
	}
	a.aers = append(a.aers, r)
	return response{held: true}
}

// abortHeld completes a held asynchronous event request as aborted.
func (a *association) abortHeld(cid uint16) bool {
	a.mu.Lock()
	for i, r := range a.aers {
		if r.cmd.cid() == cid {
			a.aers = append(a.aers[:i:i], a.aers[i+1:]...)
			a.mu.Unlock()
			r.q.complete(r, failed(generic(SCAbortRequested)))
			return true
		}
	}
	a.mu.Unlock()
	return false
}

// changedNSMax is the number of entries of the changed namespace list.
const changedNSMax = pageSize / 4

// namespaceChanged notes a namespace in the changed namespace list and raises the
// event.
func (a *association) namespaceChanged(nsid uint32) {
	a.mu.Lock()
	known := false
	for _, id := range a.changed {
		known = known || id == nsid || id == globalNSID
	}
	switch {
	case known:
	case len(a.changed) == changedNSMax:
		a.changed = []uint32{globalNSID}
	default:
		a.changed = append(a.changed, nsid)
	}
	a.mu.Unlock()
	a.notify(aenNamespaceChanged, aecNamespace)
}

// takeChanged returns and clears the changed namespace list.
func (a *association) takeChanged() []uint32 {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := a.changed
	a.changed = nil
	return c
}
