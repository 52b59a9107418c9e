// What pages can do beyond being read: keys, live updates that can be paused, lines to copy. Nothing depends on it.
(function () {
  "use strict";
  var paused = false;
  var saidAt = 0;

  function typing(target) {
    return target && (/^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName) || target.isContentEditable);
  }

  function say(text) {
    var region = document.getElementById("said");
    if (region && region.textContent !== text) region.textContent = text;
  }

  function rows() {
    return Array.prototype.slice.call(document.querySelectorAll("main [data-row]"));
  }

  function step(by) {
    var all = rows();
    if (!all.length) return;
    var at = all.indexOf(document.activeElement);
    all[Math.max(0, Math.min(all.length - 1, at < 0 ? 0 : at + by))].focus();
  }

  function pause() {
    paused = !paused;
    document.documentElement.classList.toggle("paused", paused);
    var button = document.getElementById("pause");
    if (button) {
      button.setAttribute("aria-pressed", String(paused));
      button.textContent = paused ? "Go live" : "Pause";
    }
    say(paused ? "Live updates are paused" : "Live updates go on");
  }

  // What is asked before an action is a page; here it is a dialog over the page it was asked from.
  function ask(link) {
    var dialog = document.getElementById("dialog");
    var opener = document.activeElement;
    fetch(link.href, { credentials: "same-origin" }).then(function (answer) { return answer.text(); }).then(function (text) {
      var found = new DOMParser().parseFromString(text, "text/html").getElementById("ask");
      if (!found) { location.href = link.href; return; }
      dialog.replaceChildren(document.adoptNode(found));
      dialog.setAttribute("aria-label", found.querySelector("h1").textContent);
      dialog.showModal();
      var first = found.querySelector("input:not([type=hidden]), select, a");
      (found.querySelector("[autofocus]") || first).focus();
      dialog.onclose = function () { dialog.replaceChildren(); if (opener) opener.focus(); };
    }).catch(function () { location.href = link.href; });
  }

  function redrive(event) {
    var row = document.activeElement && document.activeElement.closest("tr, li");
    var link = (row && row.querySelector("[data-redrive]")) || document.querySelector("main [data-redrive]");
    event.preventDefault();
    if (link) ask(link);
    else say(document.querySelector('form[action="/logout"], .who a[title]') ? "Nothing here can be redriven" : "Log in to redrive");
  }

  var went = false;
  document.addEventListener("keydown", function (event) {
    if (event.ctrlKey || event.metaKey || event.altKey || typing(event.target)) return;
    if (document.getElementById("dialog").open) return;
    if (went) {
      went = false;
      var link = document.querySelector('nav a[data-key="' + event.key + '"]');
      if (link) { event.preventDefault(); link.click(); }
      return;
    }
    if (event.key === "/") { event.preventDefault(); document.getElementById("q").focus(); }
    else if (event.key === "g") went = true;
    else if (event.key === "j") step(1);
    else if (event.key === "k") step(-1);
    else if (event.key === "p") pause();
    else if (event.key === "r") redrive(event);
    else if (event.key === "?") {
      var keys = document.getElementById("keys");
      keys.open = !keys.open;
      if (keys.open) keys.querySelector("summary").focus();
    }
  });

  document.addEventListener("click", function (event) {
    var link = event.target.closest("a[data-dialog]");
    if (link && !event.ctrlKey && !event.metaKey && !event.shiftKey && document.getElementById("dialog").showModal) {
      event.preventDefault();
      ask(link);
      return;
    }
    if (event.target.closest("dialog [data-close]")) {
      event.preventDefault();
      document.getElementById("dialog").close();
      return;
    }
    var button = event.target.closest("button");
    if (!button) return;
    if (button.id === "pause") pause();
    if (button.hasAttribute("data-copy") && navigator.clipboard) {
      navigator.clipboard.writeText(button.getAttribute("data-copy")).then(function () { say("Copied"); });
    }
  });

  // A swap must not take what somebody is reading with the keyboard, has opened, or has marked.
  document.addEventListener("htmx:beforeRequest", function (event) {
    var live = document.getElementById("live");
    if (!live || event.detail.elt !== live) return;
    var marked = String(window.getSelection && window.getSelection());
    if (paused || marked || live.querySelector("details[open]") || live.contains(document.activeElement) ||
        document.getElementById("dialog").open) {
      event.preventDefault();
    }
  });
  document.addEventListener("htmx:afterSettle", function () {
    var verdict = document.querySelector("#live [data-verdict]");
    if (verdict && Date.now() - saidAt > 5000) {
      saidAt = Date.now();
      say(verdict.textContent.trim());
    }
  });
  document.addEventListener("htmx:sseError", function () { document.documentElement.classList.add("offline"); });
  document.addEventListener("htmx:sseOpen", function () { document.documentElement.classList.remove("offline"); });
  document.documentElement.classList.add("scripted");
})();
