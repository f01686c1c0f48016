// Keeps a page up to date: pieces of it come as server-sent events, and answers to forms replace the part
// they are about. Without this script every form works too, and a reload shows what is new.
'use strict'

const piece = (html) => {
  const holder = document.createElement('template')
  holder.innerHTML = html.trim()
  return holder.content.firstElementChild
}

// put replaces the element of the same id; if there is none, add decides.
const put = (fresh, add) => {
  const old = document.getElementById(fresh.id)
  if (old) old.replaceWith(fresh)
  else add(fresh)
}

const dirty = (form) => [...form.elements].some((e) => e.defaultValue !== undefined && e.type !== 'hidden' && e.value !== e.defaultValue)

const events = {
  row: (data) => put(piece(data), (row) => document.getElementById('rows').append(row)),
  gone: (data) => document.getElementById('row-' + data)?.remove(),
  message: (data) => put(piece(data), (message) => {
    const list = document.getElementById('messages')
    list.prepend(message)
    while (list.children.length > 200) list.lastElementChild.remove()
  }),
  // What somebody is typing stays; saving it will say that the twin is another by now.
  twin: (data) => {
    const fresh = piece(data)
    const form = document.querySelector('#twin form')
    if (form.elements.etag.value === fresh.querySelector('[name=etag]').value || dirty(form)) {
      put(fresh.querySelector('#reported'))
      return
    }
    fresh.querySelector('[role=status]').replaceWith(form.querySelector('[role=status]')) // of saving it
    put(fresh)
  }
}

const link = document.getElementById('link')
let source
let last // the newest message that was shown

const listen = () => {
  const from = new URL(document.body.dataset.live, location)
  if (last) from.searchParams.set('after', last)
  source = new EventSource(from)
  source.onopen = () => { link.textContent = 'live'; link.className = 'pill good' }
  source.onerror = () => { link.textContent = 'the hub is away'; link.className = 'pill bad' }
  for (const [name, act] of Object.entries(events)) {
    source.addEventListener(name, (e) => {
      last = e.lastEventId || last
      act(e.data)
    })
  }
}

// A browser has six connections to a hub for all its tabs: only one that is seen holds one.
if (document.body.dataset.live) {
  listen()
  document.addEventListener('visibilitychange', () => document.hidden ? source.close() : listen())
}

document.addEventListener('submit', async (event) => {
  const form = event.target
  const part = form.dataset.part
  if (!part) return
  event.preventDefault()
  const button = form.querySelector('button')
  button.disabled = true
  try {
    const answer = await fetch(form.action, { method: 'POST', body: new URLSearchParams(new FormData(form)) })
    const page = new DOMParser().parseFromString(await answer.text(), 'text/html')
    const fresh = page.getElementById(part)
    if (fresh) document.getElementById(part).replaceWith(fresh)
    else document.body.replaceChildren(...page.body.children)
  } catch {
    form.querySelector('[role=status]').textContent = 'the hub does not answer'
  } finally {
    button.disabled = false
  }
})
