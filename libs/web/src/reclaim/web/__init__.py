"""The one look: layout, operator sign-in, components and assets for every service's pages."""
